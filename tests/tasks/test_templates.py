"""Templates: cells by their columns, and nothing else."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.errors import TaskError
from loragen.tasks.task_set import TaskSet
from loragen.tasks.templates import filled

ROW = ("table.csv:2", {"id": "soup", "name": "Soup", "n": 3, "a.b": "dotted", "none": None, "empty": "", "many": ["x"]})


@pytest.mark.parametrize(
    ("template", "wanted"),
    [("a photo of {name}", "a photo of Soup"), ("{n} of {{x}}", "3 of {x}"), ("{a.b}", "dotted"), ("plain", "plain")],
)
def test_columns_are_filled_in(template, wanted):
    assert filled(template, ROW) == wanted


@pytest.mark.parametrize(
    "template",
    [
        *(
            "{id.foo}",
            "{id.__class__}",
            "{id[0]}",
            "{id!r}",
            "{id:>99999999999}",
            "{id:>{n}}",
            "{0}",
            "{}",
            "{",
            "}",
            "{id",
        ),
        *("{id!}", "{other}", "{none}", "{empty}", "{many}", "{n:d}"),
    ],
)
def test_nothing_else_is_formatted(template):
    with pytest.raises(
        TaskError, match=r"table\.csv:2: the description template .* cannot be filled .*columns are: id, name"
    ):
        filled(template, ROW)


@given(st.text(alphabet="{}id!r:.>[]09 ", max_size=20))
def test_any_template_is_filled_or_refused(template):
    with suppress(TaskError):
        assert len(filled(template, ROW)) <= 4 * len(template)


@pytest.mark.parametrize("file", ["{id.foo}.csv", "{id:>99999999999}.csv", "{0}.csv", "{"])
def test_sources_replace_id_alone(tmp_path, file):
    (tmp_path / "tasks.yaml").write_text(
        f"tasks: [{{id: soup, description: Judge., labels: [a, b], source: {{train: '{file}'}}}}]\n"
    )
    (task,) = TaskSet.from_yaml(tmp_path / "tasks.yaml")
    with pytest.raises(TaskError, match=r"Cannot read|ends in none of"):
        task.load_train()
