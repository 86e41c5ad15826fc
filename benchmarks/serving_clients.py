"""Other people's clients against a running server, and the curl lines of README and docs as they stand.

    python benchmarks/serving_clients.py [--clients VENV/bin/python]

`--clients` names a Python with langchain-openai, llama-index-embeddings-openai-like and huggingface_hub; by default
this one. A client that is not installed there is told as such. Each embeds two texts under an adapter that was
generated over HTTP, and must give what the library gives, to 1e-5. The curl lines must answer with status 200 or 201.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loragen

TEXTS = ["When do you open?", "I would like to give you a painting."]
DESCRIPTION = "Sort letters to a museum."
PAGES = ("README.md", "docs/serving.md")
CODE = {
    "openai": """
from openai import OpenAI
client = OpenAI(base_url=URL + "/v1", api_key="none")
found = [one.embedding for one in client.embeddings.create(model=NAME, input=TEXTS).data]
""",
    "langchain_openai": """
from langchain_openai import OpenAIEmbeddings
# Without this LangChain sends tokens of OpenAI's own tokenizer, which it fetches.
client = OpenAIEmbeddings(base_url=URL + "/v1", api_key="none", model=NAME, check_embedding_ctx_length=False)
found = client.embed_documents(TEXTS)
""",
    "llama_index.embeddings.openai_like": """
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
client = OpenAILikeEmbedding(model_name=NAME, api_base=URL + "/v1", api_key="none")
found = client.get_text_embedding_batch(TEXTS)
""",
    "huggingface_hub": """
from huggingface_hub import InferenceClient
client = InferenceClient(f"{URL}/embed?model={NAME}")
found = [client.feature_extraction(text)[0].tolist() for text in TEXTS]
""",
}
"""Package → what its user types."""


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "loragen", "serve", "--adapters", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        met = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert met is not None, "the server did not start"
        yield met[0]
    finally:
        process.terminate()
        process.wait()


def asked(python: str, package: str, url: str, wanted: list[list[float]]) -> str:
    """What comes of a client."""
    head = f"import json, sys\nURL, NAME, TEXTS = {url!r}, 'post', {TEXTS!r}\n"
    tail = "from importlib.metadata import version\nprint(json.dumps([[float(x) for x in row] for row in found]))\n"
    code = head + CODE[package] + tail
    there = os.environ | {"HF_HUB_OFFLINE": "0"}  # by which huggingface_hub leaves servers of one's own alone too
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, env=there)
    if "ModuleNotFoundError" in run.stderr:
        return "not installed"
    if run.returncode:
        return f"FAILED: {run.stderr.strip().splitlines()[-1][:200]}"
    found = json.loads(run.stdout.strip().splitlines()[-1])
    pairs = zip(found, wanted, strict=True)
    apart = max(abs(x - y) for one, other in pairs for x, y in zip(one, other, strict=True))
    return "the same" if apart < 1e-5 else f"FAILED: apart by {apart:.2g}"


def curl_lines() -> Iterator[str]:
    """The curl commands of the pages, whole."""
    for page in PAGES:
        for met in re.finditer(
            r"^\$ (curl (?:[^'\n]|'[^']*')+)$", Path(page).read_text(encoding="utf-8"), re.MULTILINE
        ):
            yield met[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=sys.executable, help="a Python that has the clients")
    parser.add_argument("--port", type=int, default=8421, help="the curl lines name the default")
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as place, served(Path(place), options.port) as url:
        for line in curl_lines():
            code = f"{line.replace('localhost:8421', url.removeprefix('http://'))} -s -o /dev/null -w '%{{http_code}}'"
            status = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False).stdout
            faults += status not in ("200", "201")
            print(f"{status}  {' '.join(line.split())[:90]}")
        own = loragen.Adapter.load(Path(place) / "post").sentence_transformer().encode(TEXTS).tolist()
        for package in CODE:
            told = asked(options.clients, package, url, own)
            faults += told.startswith("FAILED")
            print(f"{package}: {told}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
