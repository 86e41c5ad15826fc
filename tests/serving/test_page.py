"""The page, in a browser without a window; what needs none is tested without."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLACE = files("loragen.serving") / "page"
LABELS = ("broken", "rent", "moving out")
TEXTS = [
    f"{start} {end}."
    for start in ("The tap drips", "My rent is late", "I leave the flat", "The stove is dead")
    for end in ("since Monday", "this month", "before spring", "as I wrote", "once more", "for good")
]
SLOW = 60_000
"""Milliseconds that a busy machine may take."""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser's tests")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: no browser's tests")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """Of a server that runs until the module's tests are done; the browser tells first if there is need of one."""
    command = [sys.executable, "-m", "loragen", "serve", "--port", "0", "--adapters"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    place = tmp_path_factory.mktemp("page")
    with (
        (place / "errors").open("w") as errors,
        subprocess.Popen(
            [*command, str(place / "adapters")], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as server,
    ):
        said = re.search(r"http://[\w.]+:\d+", server.stdout.readline())
        assert said is not None, (place / "errors").read_text()
        yield said[0]
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(browser, address):
    """The page as it is opened; no test may end with an error in it, or with something that its policy refused."""
    with browser.new_context(viewport={"width": 1100, "height": 800}, reduced_motion="reduce") as context:
        opened, faults = context.new_page(), []
        opened.set_default_timeout(SLOW)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        opened.goto(address)
        opened.wait_for_selector("circle.expert")
        yield opened
        assert faults == []


def made(page, description, *, labels=LABELS, name=""):
    """Generate by the form, without texts."""
    page.fill("#description", description)
    page.fill("#labels", "\n".join(labels))
    if name:
        page.click("summary")
        page.fill("#name", name)
    page.click("#generate")
    page.wait_for_selector("#trial")


def tab_to(page, place):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == place:
            return
    pytest.fail(f"Tab does not lead to {place}")


def dropped(page, name, content):
    """Drop a file on the field of texts."""
    script = "([name, content]) => { const t = new DataTransfer(); t.items.add(new File([content], name)); return t; }"
    page.dispatch_event("#texts", "drop", {"dataTransfer": page.evaluate_handle(script, [name, content])})


def wait_for(page, place, words):
    """Wait until a place says something; functions in strings, the page's policy refuses."""
    page.locator(place, has_text=words).wait_for()


def alert(page):
    page.wait_for_selector("#error .alert")
    return page.inner_text("#error")


# --- without a browser ---


def test_the_page_is_made_of_its_parts_alone():
    from loragen.serving.routes.page import PARTS

    assert {"index.html", *PARTS} == {path.name for path in PLACE.iterdir()}
    asked = {name for part in PARTS for name in re.findall(r'from "\./(.+?)"', (PLACE / part).read_text())}
    assert asked | {"page.css", "page.js"} == set(PARTS)


def test_nothing_stands_in_the_page_that_its_policy_refuses():
    index = (PLACE / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?! type=\"module\" src=\"/page/page.js\"></script>)", index)
    assert not re.search(r"(src|href)=\"(https?:)?//", index)
    scripts = "".join(path.read_text() for path in PLACE.iterdir() if path.name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", scripts)


# --- with one ---


def test_an_adapter_is_generated_and_tried_by_the_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "description"
    page.keyboard.type("What does a tenant write to the landlord about?")
    page.keyboard.press("Tab")
    page.keyboard.type("something is broken, rent and charges, moving out")
    assert "3 labels" in page.inner_text("#labels-count")
    tab_to(page, "generate")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trial")
    assert page.evaluate("document.activeElement.id") == "result-title"
    assert "right than by the base" in page.inner_text("#outlook")
    tab_to(page, "try-texts")
    page.keyboard.type("The heating is cold.\nCould I pay later?")
    tab_to(page, "compare")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answers tbody tr")
    rows = page.locator(".answers tbody tr")
    assert rows.count() == 2
    cells = rows.nth(0).locator("td")
    assert cells.count() == 2
    for cell in cells.all_inner_texts():
        assert re.search(r"(something is broken|rent and charges|moving out)\s+\d+ %", cell)
    assert page.locator("#kept-list a", has_text="what-does-a-tenant-write-to").count() == 1


def test_predictions_are_the_servers_own_and_marked_where_they_differ(page):
    made(page, "Sort what people say about a flat", name="flat")
    page.fill("#try-texts", "\n".join(TEXTS))
    page.click("#compare")
    page.wait_for_selector(".answers tbody tr")
    bodies = [{"inputs": TEXTS, "labels": LABELS} | more for more in ({"model": "flat"}, {})]
    address = page.url.partition("#")[0]
    adapted, bare = (
        [row[0]["label"] for row in page.request.post(f"{address}predict", data=body).json()] for body in bodies
    )
    rows = page.locator(".answers tbody tr").all()
    assert [row.locator("td b").all_inner_texts() for row in rows] == [
        [a, b] for a, b in zip(adapted, bare, strict=True)
    ]
    marked = ["differs" in (row.get_attribute("class") or "") for row in rows]
    assert marked == [a != b for a, b in zip(adapted, bare, strict=True)]


def test_a_dropped_file_of_texts_leads_to_a_job_with_progress_and_an_adapter(page):
    page.fill("#description", "Sort letters of tenants")
    page.fill("#labels", ", ".join(LABELS))
    dropped(page, "letters.txt", "\n".join(TEXTS))
    wait_for(page, "#texts-count", "24 texts from letters.txt")
    page.evaluate(
        """() => {
            const state = document.getElementById('state');
            window.told = new Set();
            new MutationObserver(() => window.told.add(state.textContent)).observe(state, {childList: true});
        }"""
    )
    page.click("#generate")
    page.wait_for_selector("#job progress")
    page.wait_for_selector("#trial")
    assert "Reading the texts …" in page.evaluate("[...window.told]")
    assert page.inner_text("#state") == "Made sort-letters-of-tenants."
    assert not page.is_visible("#job")
    assert "24 texts without labels" in page.inner_text("#result")
    assert page.input_value("#try-texts").splitlines() == TEXTS[:5]


def test_a_job_can_be_cancelled(page):
    page.fill("#description", "Sort letters that nobody wants")
    page.fill("#labels", ", ".join(LABELS))
    page.fill("#texts", "\n".join(TEXTS))
    page.click("#generate")
    page.click("#cancel")
    assert alert(page) == "The job was cancelled."
    assert page.is_enabled("#generate")


def test_files_of_all_kinds_are_read(page, tmp_path):
    kinds = {
        "a.csv": 'id,text\n1,"one, with ""marks"""\n2,"two\nlines"\n',
        "b.csv": "only one column\nand two rows\n",
        "c.jsonl": "\n".join(json.dumps({"text": text}) for text in ("uno", "dos")),
        "d.txt": "\ufeffeins\r\n\r\nzwei\r\n",
    }
    found = {}
    for name, content in kinds.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        page.set_input_files("#file", tmp_path / name)
        wait_for(page, "#texts-count", name)
        found[name] = page.input_value("#texts").split("\n")
    assert found == {
        "a.csv": ['one, with "marks"', "two lines"],
        "b.csv": ["only one column", "and two rows"],
        "c.jsonl": ["uno", "dos"],
        "d.txt": ["eins", "zwei"],
    }
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"txt": 1}')
    page.set_input_files("#file", tmp_path / "bad.jsonl")
    assert alert(page) == 'Line 2 of bad.jsonl is not JSON with a "text".'
    dropped(page, "many.txt", "\n".join(f"text {number}" for number in range(2_500)))
    wait_for(page, "#texts-count", "the first 2,000 are taken")


def test_markup_shows_as_text_and_runs_nothing(page):
    markup = '<img src=x onerror="window.hit=1"><b>bold</b><script>window.hit=1</script>'
    made(page, markup, labels=("<i>one</i>", "<i>two</i>"), name="marked")
    page.fill("#try-texts", markup)
    page.click("#compare")
    page.wait_for_selector(".answers tbody tr")
    assert page.inner_text("#result-title") == markup
    assert page.inner_text(".answers tbody th").startswith(markup)
    assert page.inner_text(".answers td b") in ("<i>one</i>", "<i>two</i>")
    assert markup in page.inner_text("#kept-list")
    assert page.locator("main img, main script, main i").count() == 0
    assert page.evaluate("window.hit") is None


def test_the_map_shows_every_expert_and_the_task(page):
    page.fill("#description", "Decide what a bank's customer asks about a card.")
    page.wait_for_selector("#map .task")
    plane = page.request.get(f"{page.url}zoo/map").json()
    assert page.locator("#map circle.expert").count() == len(plane["experts"])
    assert page.locator("#map .task").count() == 1
    near = page.request.get(f"{page.url}zoo/search", params={"description": page.input_value("#description")}).json()
    names = [one["id"] for one in near["experts"]]
    shown = page.locator("#nearest b").all_inner_texts()
    assert shown == names[: len(shown)]
    assert page.locator("#map .is-near").count() == len(shown)
    assert "near to an expert" in page.inner_text("#distance")
    page.locator('#map [tabindex="0"]').focus()
    before = page.inner_text("#map-caption")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#map-caption") != before
    page.fill("#description", "")
    page.wait_for_selector("#map .task", state="detached")


def test_an_adapter_is_downloaded_opened_by_its_address_and_deleted(page):
    made(page, "Sort questions about plants", name="plants")
    with page.expect_download() as got:
        page.click("#download")
    with zipfile.ZipFile(io.BytesIO(got.value.path().read_bytes())) as folder:
        assert "plants/adapter_config.json" in folder.namelist()
    code = page.inner_text("#code")
    for part in ("PeftModel.from_pretrained", 'load_adapter("plants")', "/v1/embeddings", '"model": "plants"'):
        assert part in code
    page.reload()
    page.wait_for_selector("#trial")
    assert page.inner_text("#result-title") == "Sort questions about plants"
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#delete")
    page.wait_for_selector("#result", state="hidden")
    page.wait_for_selector('#kept-list a[href="#/plants"]', state="detached")


def test_errors_are_told_in_words(page):
    page.click("#generate")
    assert alert(page) == "The description is empty; say the task in words."
    page.fill("#description", "Sort letters")
    page.fill("#labels", "one")
    page.click("#generate")
    wait_for(page, "#error", "at least two different ones")
    page.goto(f"{page.url}#/no-such")
    page.wait_for_selector("#result .alert")
    assert "There is no adapter" in page.inner_text("#result .alert")


def test_on_a_phone_nothing_scrolls_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    made(page, "Sort " + "averyverylongword" * 6, labels=("x" * 80, "short"), name="n" * 90)
    page.fill("#try-texts", "y" * 200)
    page.click("#compare")
    page.wait_for_selector(".answers tbody tr")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_and_light_have_grounds_of_their_own(page):
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds)
    assert light > 600
    assert dark < 150


def test_every_field_has_a_label(page):
    made(page, "Sort letters", name="labelled")
    nameless = """[...document.querySelectorAll('input, textarea, select, button, progress')]
        .filter((one) => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim())
        .map((one) => one.id)"""
    assert page.evaluate(nameless) == []
