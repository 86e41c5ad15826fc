"""What methods tell the base of a task, beside its texts."""

from types import SimpleNamespace

import pytest

from loragen.evaluation.config import BASE, INSTRUCTED, MULTITASK, TOLD, TOPK, mean_output
from loragen.evaluation.methods import instruction_of


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (BASE, None),
        (MULTITASK, None),
        (TOLD, "the task"),
        (INSTRUCTED, "the task"),
        (TOPK, None),
        ("hyper", None),
        ("sg, fitted", None),
        ("told", "a control"),
        ("told, fitted", "a control"),
        (mean_output("told"), "a control"),
        (mean_output(TOPK), None),
    ],
)
def test_generators_that_are_told_tell_what_they_read(method, wanted) -> None:
    pipelines = {
        "told": SimpleNamespace(generator=SimpleNamespace(name="hyper", manifest=SimpleNamespace(told=True))),
        "hyper": SimpleNamespace(generator=SimpleNamespace(name="hyper", manifest=SimpleNamespace(told=False))),
        **{name: SimpleNamespace(generator=SimpleNamespace(name=name)) for name in (TOPK, "sg")},
    }
    workspace = SimpleNamespace(pipelines=pipelines, fitted={"told, fitted": "told", "sg, fitted": "sg"})
    task = SimpleNamespace(description="the task")
    assert instruction_of(workspace, task, method, "a control") == wanted
