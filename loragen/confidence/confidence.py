"""Calibrated models of a generator's gain, as a zoo holds them, and what is said with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from loragen.confidence.expected import ExpectedGain, Knowledge
from loragen.confidence.figure_names import KNOWN_BY, Figures
from loragen.confidence.gain_model import GainModel
from loragen.config import StrictModel
from loragen.paths import is_file

if TYPE_CHECKING:
    from loragen.zoo.zoo import Zoo

CONFIDENCE = "confidence"
"""Folder of a zoo with a file for each generator."""
Candidate = Literal["generated", "shared", "adapted"]
"""An adapter that may be written: the generator's own, the zoo's one adapter for all tasks, or the generator's own
after self-training on the task's texts."""


class Confidence(StrictModel):
    """Models of the gain that a generator's adapters bring, fitted on tasks that their zoo had not seen."""

    generator: str
    zoo_hash: str
    """Of the experts that the generator draws on; with others, nothing is known of its gains."""
    generated: dict[Knowledge, GainModel]
    shared: dict[Knowledge, GainModel] = Field(default_factory=dict)
    adapted: dict[Knowledge, GainModel] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reads_what_is_known(self) -> Self:
        for models in (self.generated, self.shared, self.adapted):
            for knows, model in models.items():
                if unknown := {figure.name for figure in model.figures} - set(KNOWN_BY[knows]):
                    raise ValueError(f"{sorted(unknown)[0]!r} is not known from {knows}")
        return self

    @classmethod
    def of(cls, generator: str, zoo: "Zoo") -> Self | None:
        """That of a generator of a zoo by its name; `None` where none was fitted, or on other experts.

        Raises:
            ConfigError: the file is damaged.
        """
        path = confidence_file(generator, zoo.root)
        if path is None or not is_file(path):
            return None
        found = cls.from_yaml(path)
        return found if found.zoo_hash == zoo.drawn_on.fingerprint else None

    def expect(self, candidate: Candidate, figures: Figures, knows: Knowledge) -> ExpectedGain | None:
        """The gain to expect of a candidate, or `None` where no model was fitted for what is known."""
        models: Mapping[Knowledge, GainModel] = getattr(self, candidate)
        return models[knows].expect(figures, knows) if knows in models else None


def confidence_file(generator: str, root: Path) -> Path | None:
    """Where a generator's models lie in the folder of a zoo; `None` for one that is named by its folder."""
    return root / CONFIDENCE / f"{generator}.yaml" if generator.isidentifier() else None
