"""A description in, adapters and their cards out, and their folders: `loragen.generation` without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loragen.adapters.folder_files import write_files
from loragen.bases.bert_config import linear_sizes, read_config
from loragen.bases.known import EMBEDDED_NAMES
from loragen.config import dump_yaml
from loragen.errors import AdapterError, LoragenError
from loragen.exporters.card import GeneratedCard, Parent, model_card
from loragen.exporters.written import NOT_READ_BACK, Written, refuse_no_op, written
from loragen.lean.encoder import LeanEncoder
from loragen.lean.errors import require
from loragen.lean.factors import Factors
from loragen.lean.judge import LeanJudge
from loragen.lean.sg import LeanSG
from loragen.lean.zoo import LeanNeighbour, LeanZoo
from loragen.tasks.words import checked_names, is_blank, refuse_unreadable
from loragen.values import checked_seed

LONGEST = 100_000
"""Characters of a description that is embedded."""


@dataclass(frozen=True, eq=False)
class LeanAdapter:
    """A generated adapter with its card."""

    factors: Factors
    card: GeneratedCard
    notes: tuple[str, ...] = ()

    def save(self, folder: Path, *, replace: bool) -> Written:
        """Write a PEFT folder with card and model card, read it back, and check it; see `write_adapter`.

        Raises:
            AdapterError: it leaves its base unchanged, or came back other than it was written.
            ConfigError: something stands there that may not be replaced.
        """
        refuse_no_op(self.factors)
        extra = {"card.yaml": dump_yaml(self.card.model_dump(mode="json")), "README.md": self._readme()}
        write_files(folder, self.factors.files(), extra, replace=replace)
        try:
            read = Factors.load(folder)
        except (LoragenError, OSError, ValueError, KeyError) as error:
            raise AdapterError(NOT_READ_BACK.format(folder)) from error
        return written(folder, read, self.factors)

    def _readme(self) -> str:
        return model_card(self.card, self.factors)


def generate_lean(
    description: str, labels: Sequence[str], root: Path, encoder: str, *, seed: int, samples: int, fallback: bool
) -> list[LeanAdapter]:
    """Generate adapters for a task with the zoo at ``root``.

    Raises:
        NotLeanError: the path with torch has to do it, or to say what is wrong.
        LoragenError: a file is damaged.
    """
    refuse_unreadable(description, "The task description", longest=LONGEST)
    require(not is_blank(description), "the description is empty")
    names = checked_names(labels, "The labels")
    require(len(names) != 1, "there is one label")
    checked_seed(seed)
    found = LeanEncoder.load(encoder)
    zoo = LeanZoo.open(root)
    sg = LeanSG.load(root / "generators" / "sg")
    require(sg.manifest["zoo_hash"] == zoo.fingerprint, "the generator was trained on other experts")
    require(sg.manifest["encoder_hash"] == found.fingerprint, "the generator was trained with another encoder")
    neighbours = sg.neighbours(found.encode([description])[0])
    adapters = sg.generate(neighbours, seed=seed, samples=samples)
    _require_fit(adapters[0], found.folder)
    judge = LeanJudge.of(zoo, found, description, names, fallback=fallback)
    made = []
    for number, adapter in enumerate(adapters):
        require(adapter.norm() > 0, "an adapter does nothing")
        facts: dict[str, Any] = {"description": description, "labels": tuple(labels), "seed": seed, "sample": number}
        card = _card(zoo, found, neighbours, **facts, outlook=judge.outlook(adapter, neighbours))
        made.append(LeanAdapter(adapter, card))
    return made


def _require_fit(adapter: Factors, folder: Path) -> None:
    """Leave an adapter that does not fit the embedded model to the path with torch, which says why."""
    config = read_config(folder)
    sizes = linear_sizes(config) if config else {}
    require(adapter.settings.base in EMBEDDED_NAMES, "the base is not the embedded model")
    require(adapter.settings.task_type == "FEATURE_EXTRACTION", "the base is no encoder")
    fits = all(sizes.get(site.name) == (site.out_features, site.in_features) for site in adapter.spec.sites)
    require(fits, "the adapter does not fit its base")


def _card(zoo: LeanZoo, encoder: LeanEncoder, neighbours: Sequence[LeanNeighbour], **facts: Any) -> GeneratedCard:
    """The card of a generation; ``facts`` are those of the task and the draw."""
    recipe = zoo.manifest["recipe"]
    require(recipe.get("objective", "label_text") == "label_text", "the base writes text")
    parents = tuple(
        Parent(
            id=one.id,
            similarity=round(one.similarity, 4),
            weight=round(one.weight, 4),
            licence=zoo.cards[one.id]["licence"],
            origin=zoo.cards[one.id]["origin"],
        )
        for one in neighbours
        if one.weight != 0
    )
    return GeneratedCard(
        **facts,
        generator="sg",
        label_targets=recipe.get("label_targets", "moving"),
        base=zoo.manifest["base"],
        base_hash=zoo.manifest["base_hash"],
        zoo=zoo.manifest["name"],
        zoo_hash=zoo.whole_fingerprint,
        encoder=encoder.name,
        encoder_hash=encoder.fingerprint,
        parents=parents,
        versions={name: version(name) for name in ("loragen", "numpy")},
    )
