"""Tasks learnt one after the other, for `recipes.py`: how much of the earlier ones is forgotten."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from recipe_lab import COMMON, Lab
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.losses import LOGIT_SCALE
from loragen.continual.metrics import ContinualScores
from loragen.evaluation.workspace import shuffled
from loragen.recipes.expert import Start
from loragen.recipes.registry import recipe_from
from loragen.recipes.sequence import merge_sequence
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, copied, run
from loragen.training.threads import few_threads

DOMAINS = ("clinc_banking", "clinc_credit_cards", "clinc_auto_and_commute", "clinc_utility", "clinc_small_talk")
SEEDS, TEXTS = (0, 1, 2), 150


def forgetting(scores: Sequence[Sequence[float]]) -> float:
    """FM of `ContinualScores`; ``scores`` has a row for every moment, of the tasks seen until then, of two at least."""
    lost = ContinualScores.of(scores).fm
    assert lost is not None
    return lost


def forgetting_of_sequences(
    lab: Lab, ids: Sequence[str], recipe: Mapping[str, Any]
) -> tuple[float, float, tuple[int, ...]]:
    """Tasks absorbed in order: how much is forgotten, the last task's accuracy, and the ranks of its expert's sites."""
    parsed, tasks = recipe_from(COMMON | dict(recipe)), [lab.tasks[task] for task in ids]
    scores, ranks, before = [], (), 0
    with few_threads(lab.base.number_of_parameters):
        for at, adapter in enumerate(merge_sequence(tasks, lab.base, parsed)):
            scores.append([lab.accuracy(task, adapter) for task in tasks[: at + 1]])
            sizes = [site.r for site in adapter.spec.sites]
            ranks = tuple(size - old for size, old in zip(sizes, before or [0] * len(sizes), strict=True))
            before = sizes
    return forgetting(scores), scores[-1][-1], ranks


def forgetting_of_heads(lab: Lab, kind: str) -> tuple[float, float]:
    """Intent domains learnt in order by one adapter: what is forgotten, and the mean accuracy at the end.

    Means over seeds, all seen intents to choose from. The head has a row an intent: frozen, of its label text, or, for
    "random", drawn at random and trained.
    """
    found = [_one_sequence(lab, kind, seed) for seed in SEEDS]
    return mean(forgetting(scores) for scores in found), mean(mean(scores[-1]) for scores in found)


def _one_sequence(lab: Lab, kind: str, seed: int) -> list[list[float]]:
    recipe = recipe_from(COMMON | {"name": "lora_both", "seed": seed, "learning_rate": 1e-2})
    rng = torch.Generator().manual_seed(seed)
    start = Start.random(lab.base.sites(recipe.target_modules), recipe.r, rng=rng)
    tasks, heads, scores = [lab.tasks[task] for task in DOMAINS], [], []
    for at, task in enumerate(tasks):
        setting = Setting.of(task, lab.base, start, recipe)
        rows = _rows(lab.base, setting, kind, rng)
        trainee, head = FreeFactors(start), torch.nn.Parameter(rows, requires_grad=kind == "random")
        trainee.register_parameter("head", head)

        def losses(batch: Any, head: Tensor = head, earlier: Sequence[Tensor] = tuple(heads)) -> dict[str, Tensor]:
            texts = lab.base.embed(batch.ids)
            directions = F.normalize(torch.cat([*earlier, head]), dim=1)
            targets = batch.targets + sum(map(len, earlier))
            return {"loss": F.cross_entropy(LOGIT_SCALE * texts @ directions.T, targets)}

        with few_threads(lab.base.number_of_parameters):
            run(setting, trainee, setting.steps, losses=losses)
        factors = copied(trainee.factors())
        start = Start({site: a for site, (a, _) in factors.items()}, {site: b for site, (_, b) in factors.items()})
        heads.append(head.detach())
        adapter = Lora.from_factors(start.lora_A, start.lora_B, base_model_name_or_path=lab.base.name)
        scores.append(_seen(lab, tasks[: at + 1], heads, adapter))
    return scores


def _rows(base: Base, setting: Setting, kind: str, rng: torch.Generator) -> Tensor:
    labels = base.encode(setting.train.label_ids)
    return labels if kind == "label texts" else F.normalize(torch.randn(labels.shape, generator=rng), dim=1)


def _seen(lab: Lab, tasks: Sequence[Any], heads: Sequence[Tensor], adapter: Lora) -> list[float]:
    """Accuracy on each task seen, among the classes of all of them."""
    directions, first, found = F.normalize(torch.cat(list(heads)), dim=1), 0, []
    for task, head in zip(tasks, heads, strict=True):
        data = lab.base.prepare(shuffled(task), max_length=128).first(TEXTS)
        with lab.base.adapted(adapter):
            chosen = (lab.base.encode(data.ids) @ directions.T).argmax(1)
        found.append(float((chosen == data.targets + first).double().mean()))
        first += len(head)
    return found
