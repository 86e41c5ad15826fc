"""The page at the root: the files of one folder, and nothing from elsewhere."""

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response

router = APIRouter(include_in_schema=False)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing of anyone else's is loaded, and nothing in a description can become code."""
PARTS = (
    "page.css",
    "page.js",
    "api.js",
    "ask.js",
    "dom.js",
    "kept.js",
    "place.js",
    "result.js",
    "snippets.js",
    "texts.js",
    "trial.js",
)
"""Files that the page asks for."""
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def _file(name: str) -> Response:
    content = (files("loragen.serving") / "page" / name).read_bytes()
    headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
    return Response(content, media_type=f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8", headers=headers)


@router.get("/")
def index() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/page/{name}")
def part(name: str) -> Response:
    """What it does, and how it looks."""
    if name not in PARTS:
        raise HTTPException(404, "The page has no such file.")
    return _file(name)
