"""Is a task new to a zoo? From its description, from unlabelled texts, or from both."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from loragen.adaptation.texts import distinct_texts
from loragen.bases.base import Base
from loragen.bases.known import EMBEDDED_MODEL
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.coverage import Coverage, Reference, lesser
from loragen.confidence.descriptors import Descriptors, Rule, features
from loragen.confidence.left_out import FEWEST, left_out_similarities
from loragen.errors import ConfigError, TaskError, ZooError, cut, shown
from loragen.tasks.examples import Examples
from loragen.tasks.words import is_blank
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import SPLIT, Zoo

TOP = 3
"""Nearest experts that are named."""


def novelty(
    description: str | None = None,
    *,
    texts: Examples | Sequence[str] | Path | None = None,
    zoo: Zoo | Path | None = None,
    encoder: TextEncoder | str = f"sentence-transformers/{EMBEDDED_MODEL}",
    rule: Rule = "means",
    base: Base | None = None,
) -> Coverage:
    """How well a zoo covers a task, from its description, from unlabelled texts of it, or from both.

    With both, the task is as covered as the lesser of the two says.

    Args:
        description: the task, in words.
        texts: texts of the task, 20 to 10,000 different ones, or a file of them.
        zoo: the zoo; by default the bundled one.
        encoder: embeds descriptions.
        rule: how texts are compared with an expert's: by the means of both, or by errors, as SEMA does.
        base: the zoo's base, where it is open already; texts are read through it.

    Raises:
        TaskError: neither is given, the description is empty, or the texts are too few.
        ZooError: there is no such zoo, it holds too few families to leave one out, or knows nothing of texts.
        ConfigError: there is no such encoder or rule, or the base has other weights here.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"There is no rule {shown(rule)}; choose one of {', '.join(get_args(Rule))}.")
    if texts is None and (description is None or is_blank(description)):
        raise TaskError("There is neither a description of the task nor texts of it; give one of them.")
    experts = (zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)).select(splits={SPLIT})
    found = []
    if description is not None and not is_blank(description):
        text_encoder = TextEncoder.load(encoder) if isinstance(encoder, str) else encoder
        found.append(of_description(description, ExpertIndex.of(experts, text_encoder), text_encoder))
    if texts is not None:
        found.append(_of_texts(texts, experts, rule, base))
    return found[0] if len(found) == 1 else lesser(*found)


def of_description(description: str, experts: ExpertIndex, encoder: TextEncoder, *, top: int = TOP) -> Coverage:
    """How well experts cover a task, from its description.

    Raises:
        ZooError: they are of fewer than five families.
    """
    reference = reference_of(experts)
    if reference is None:
        raise ZooError(
            f"The experts of {cut(experts.zoo.root)} are of fewer than {FEWEST} families, so that none can be left "
            "out to see what a new task is like; add experts of other families."
        )
    hits = experts.index.search(encoder.encode([description])[0], top)
    nearest = [(hit.id, hit.similarity) for hit in hits]
    return reference.coverage(nearest[0][1], "description", nearest)


def reference_of(experts: ExpertIndex) -> Reference | None:
    """How near experts' descriptions are to those of other families; `None` where there are too few families."""
    families = [card.family or card.id for card in experts.zoo]
    vectors = [each.numpy() for each in experts.paraphrases]
    return left_out_similarities(vectors, experts.index.vectors.numpy(), families)


def _of_texts(texts: Examples | Sequence[str] | Path, experts: Zoo, rule: Rule, base: Base | None) -> Coverage:
    if isinstance(texts, Path):
        given, name = Examples.texts_from_file(texts), cut(texts)
    else:
        given, name = texts if isinstance(texts, Examples) else Examples(tuple(texts)), "The list of texts"
    some = distinct_texts(given, name, rng=torch.Generator().manual_seed(0))
    descriptors = Descriptors.load(experts.root)
    if not set(experts.ids) & set(descriptors.of) or descriptors.base_hash != experts.manifest.base_hash:
        raise ZooError(
            f"What {cut(experts.root)} knows of texts is of other experts or of another base; make it again: "
            "loragen zoo describe TASKS.yaml --force."
        )
    rows = features(some, base or experts.load_base(), max_length=experts.manifest.recipe.max_length)
    return descriptors.coverage(rows, experts.ids, rule=rule, top=TOP)
