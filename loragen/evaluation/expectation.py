"""What is expected of generators' adapters before test texts are looked at, and what is given out because of it."""

from dataclasses import replace

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Evidence
from loragen.confidence.expected import ExpectedGain
from loragen.errors import GeneratorError
from loragen.generation import Pipeline
from loragen.generation.judge import Judge
from loragen.tasks.task_set import Task


def expects(pipeline: Pipeline) -> bool:
    """True if the zoo holds models of the gains of a generator's adapters."""
    return pipeline.confidence is not None


def expected_gain(pipeline: Pipeline, task: Task, adapter: Lora) -> ExpectedGain | None:
    """What is expected of an adapter that was made from a task's description; its labels' names are known too."""
    made = pipeline.generate(Evidence(task.description))[0]
    judge = Judge.of(pipeline, task.description, task.labels, fallback=False)
    return judge.of_description(replace(made, adapter=adapter)).outlook.expected


def given_out(pipeline: Pipeline, task: Task, seed: int) -> Lora | None:
    """The adapter that is given out for a task: the generator's, a safer one, or none."""
    made = pipeline.generate(Evidence(task.description), seed=seed)[0]
    try:
        return Judge.of(pipeline, task.description, task.labels, fallback=True).of_description(made).adapter
    except GeneratorError:
        return None
