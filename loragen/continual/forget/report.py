"""What is said of an expert that was forgotten: how near each generator came to one that has never seen it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Three:
    """A figure before the edit, after it, and for the gold standard where that was trained."""

    before: float
    after: float
    gold: float | None = None

    def __str__(self) -> str:
        gold = "" if self.gold is None else f" (trained without it: {self.gold:.2f})"
        return f"{self.before:.2f} → {self.after:.2f}{gold}"


@dataclass(frozen=True)
class GeneratorReport:
    """One generator that has forgotten an expert."""

    generator: str
    edit: Path | None
    """File of the edit; None if it lay there already."""
    layers: int
    """That the edit could change."""
    zero: tuple[str, ...]
    """Layers among them that it leaves exactly as they were."""
    bound: float
    """BND of the edit, a squared distance in units of the experts' spread."""
    forgotten: Three
    """Mean error of adapters generated for the forgotten expert's descriptions; see `probe`."""
    unlisted: float
    """The same if it were only taken out of what is looked up, and the network left as it was."""
    remaining: Three
    """Mean error for the remaining experts that were looked at."""
    membership: Three | None
    """The probe; None where no expert is known that was never seen."""
    unseen: int
    """Experts that were never seen, for the probe."""
    to_gold: Three | None
    """Distance from the gold standard's adapters for the forgotten expert: before, after, and (``gold``) None."""
    remaining_to_gold: Three | None
    """The same for remaining experts."""

    @property
    def nearness(self) -> float | None:
        """Share of the way to the gold standard's adapters for the forgotten expert that the edit went."""
        if self.to_gold is None or self.to_gold.before == 0:
            return None
        return 1 - self.to_gold.after / self.to_gold.before

    def sentences(self) -> list[str]:
        """The report in words, a line a fact."""
        told = [
            f"error for its descriptions: {self.forgotten}; 1 is as far as the mean of the experts",
            f"the same without the edit, if it were only no longer looked up: {self.unlisted:.2f}",
            f"error for remaining experts: {self.remaining}",
        ]
        if self.membership is not None:
            told.append(f"told from {self.unseen} experts never seen: {self.membership}; 1 is known, 0.50 is a guess")
        if self.to_gold is not None and self.nearness is not None:
            told.append(f"distance to the generator trained without it: {self.to_gold}, {self.nearness:.0%} of the way")
        changed = self.layers - len(self.zero)
        told.append(f"layers changed: {changed} of {self.layers}")
        return told


@dataclass(frozen=True)
class Forgotten:
    """What came of forgetting an expert."""

    expert: str
    generators: tuple[GeneratorReport, ...]
    removed: bool
    """True if the zoo no longer has the expert."""
    notes: tuple[str, ...] = field(default=())
    """What was not changed, though it was trained on the expert."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for told, report in zip(values["generators"], self.generators, strict=True):
            told["edit"] = None if report.edit is None else str(report.edit)
            told["nearness"] = report.nearness
        return values
