"""The adapters that are compared: of base, rivals and generators, of what reads no description, fitted, the oracle."""

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.compose.composition import Composition
from loragen.conditions.condition import Evidence
from loragen.evaluation.config import BASE, INSTRUCTED, MULTITASK, ORACLE, RANDOM, TOLD, TOPK, mean_output
from loragen.evaluation.expectation import given_out
from loragen.evaluation.workspace import Workspace, task_rng
from loragen.generators.registry import is_told
from loragen.recipes.few_shot import fit_examples
from loragen.tasks.task_set import Task


def adapter_of(workspace: Workspace, task: Task, method: str, description: str, seed: int) -> Lora | Composition | None:
    """The adapter of a method for a task; `None` for the bare base.

    Args:
        workspace: the evaluation.
        task: the task.
        method: one of `Workspace.methods`.
        description: the text that a generator reads: the task's description, or that of a control.
        seed: of the generator, or of the examples that are drawn.
    """
    if method in (BASE, TOLD):
        return None
    if method == MULTITASK:
        return workspace.multitask
    if method == INSTRUCTED:
        return workspace.instructed
    if method == ORACLE:
        return workspace.oracles.adapter(task.id)
    if method in workspace.composed:
        return workspace.compositions.composition(method, description)
    if method == RANDOM:
        return _random_experts(workspace, task, seed)
    if method in workspace.falling_back:
        return given_out(workspace.pipelines[workspace.falling_back[method]], task, seed)
    if method in workspace.unconditional:
        return workspace.mean_outputs[method]
    if method in workspace.fitted:
        start = adapter_of(workspace, task, workspace.fitted[method], description, seed)
        assert isinstance(start, Lora)
        return _fitted(workspace, task, start, seed, instruction_of(workspace, task, method, description))
    return workspace.pipelines[method].generate(Evidence(description), seed=seed)[0].adapter


def instruction_of(workspace: Workspace, task: Task, method: str, description: str) -> str | None:
    """What a method tells the base of a task beside its texts, if anything; generators tell what they read."""
    if method in (INSTRUCTED, TOLD):
        return task.description
    source = workspace.fitted.get(method, method)
    source = {mean_output(name): name for name in workspace.pipelines}.get(source, source)
    pipeline = workspace.pipelines.get(source)
    return description if pipeline is not None and is_told(pipeline.generator) else None


def _random_experts(workspace: Workspace, task: Task, seed: int) -> Lora:
    """As many experts as topk merges for a task, drawn at random, with its weights and its norm of delta weights."""
    like = workspace.pipelines[TOPK].generate(Evidence(task.description))[0]
    ids = workspace.experts.ids
    drawn = torch.randperm(len(ids), generator=task_rng(task, f"{RANDOM} {seed}"))[: len(like.neighbours)].tolist()
    adapters = [workspace.experts.adapter(ids[i]) for i in drawn]
    weights = [neighbour.weight for neighbour in like.neighbours]
    norm = weighted_sum(adapters, weights).norm()
    scale = like.adapter.norm() / norm if norm else 1.0
    return weighted_sum(adapters, [scale * weight for weight in weights])


def _fitted(workspace: Workspace, task: Task, start: Lora, seed: int, instruction: str | None) -> Lora:
    """An adapter fitted to a few labelled examples of a task; a seed draws the same examples for every method."""
    few, base = workspace.config.few_shot, workspace.base
    assert few is not None
    examples = task.load_train().few(few.shots, rng=task_rng(task, f"examples {seed}"))
    data = base.prepare(examples, max_length=few.recipe.max_length, instruction=instruction)
    return fit_examples(start, data, base, few.recipe)
