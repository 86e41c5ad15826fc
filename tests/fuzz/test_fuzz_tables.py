"""Tables: their rows are taken as they stand, or refused."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.files import Mutant
from fuzz.harness import examples, outcome
from fuzz.tables import KINDS, as_table, mutated, rows, tasks
from loragen.tasks.examples import Examples
from loragen.zoo.init import init_zoo

TEXTS = as_table([{"text": f"text {i}", "label": ("yes", "no")[i % 2]} for i in range(40)], ".jsonl")


@settings(max_examples=examples("middle"))
@given(sound=rows(), kind=st.sampled_from(KINDS))
def test_sound_rows_are_taken_as_they_stand(sound, kind, scratch):
    mutant = Mutant({f"texts{kind}": as_table(sound, kind)})
    path = mutant.write(scratch / "table") / f"texts{kind}"
    found = outcome("sound tables", lambda: Examples.from_file(path))
    assert found.texts == tuple(row["text"] for row in sound)
    assert (found.labels is None) == ("label" not in sound[0])
    if found.labels is not None:
        assert found.outputs == tuple(row["label"] for row in sound)
    if "text_pair" in sound[0]:
        assert found.pairs == tuple(row["text_pair"] for row in sound)


@settings(max_examples=examples("light"))
@given(mutant=rows().flatmap(lambda sound: mutated(sound, "texts")))
def test_mutated_texts_are_read_or_refused(mutant, scratch):
    (name,) = mutant.files
    path = mutant.write(scratch / "table") / name
    found = outcome("tables of texts", lambda: Examples.from_file(path))
    if not isinstance(found, Exception):
        assert found.texts
        assert all(isinstance(text, str) and text.strip() for text in found.texts)
        assert "nan" not in map(str.casefold, found.label_names) or b"nan" in mutant.files[name].lower()


@settings(max_examples=examples("middle"))
@given(mutant=tasks().flatmap(lambda sound: mutated(sound, "tasks", [("texts.jsonl", TEXTS)])))
def test_mutated_tables_of_tasks_are_read_or_refused(mutant, scratch):
    folder = mutant.write(scratch / "tasks")
    outcome("tables of tasks", lambda: init_zoo(folder / next(iter(mutant.files)), folder / "out"))
