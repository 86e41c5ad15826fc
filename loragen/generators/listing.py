"""The generators of a zoo, and how each stands to the experts that the zoo holds now."""

from dataclasses import dataclass
from pathlib import Path

from loragen.adapters.tensor_file import read_tensors
from loragen.config import read_yaml
from loragen.errors import GeneratorError, LoragenError, cut
from loragen.generators.behind import Behind
from loragen.generators.edits import read_edits
from loragen.generators.history import HISTORY_MANIFEST
from loragen.generators.origin import behind_of
from loragen.generators.sg.library import LIBRARY_IDS, MAPPED, ids_of
from loragen.generators.sg.model import TENSORS
from loragen.generators.trained import GENERATOR_MANIFEST, Provenance
from loragen.zoo.zoo import Zoo

RUN = "run.yaml"
"""File of a trained generator for the config that it was trained with."""


@dataclass(frozen=True)
class GeneratorInfo:
    """A trained generator of a zoo."""

    name: str
    folder: Path
    behind: Behind | None = None
    """What it has missed; `None` where it is up to date, and where it cannot be told."""
    fault: str | None = None
    """Why it cannot be used for this zoo, if it cannot."""

    @property
    def config(self) -> Path:
        """The config that it was trained with."""
        return self.folder / RUN

    def sentence(self) -> str | None:
        """What is to be said of it; `None` where it is up to date."""
        if self.fault is not None:
            return f"The generator {self.name} cannot be used: {self.fault}"
        return None if self.behind is None else self.behind.sentence(self.name, str(self.config))


def list_generators(zoo: Zoo | Path | str | None = None) -> tuple[GeneratorInfo, ...]:
    """The trained generators of a zoo, and the pool of histories if there is one, by name.

    Args:
        zoo: the zoo, its folder, or the name of one; by default the bundled one.

    Raises:
        ZooError: there is no such zoo, or it has no expert that generators draw on.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(None if zoo is None else Path(zoo))
    found = {
        path.parent: path
        for name in (GENERATOR_MANIFEST, HISTORY_MANIFEST)
        for path in (opened.root / "generators").glob(f"[!.]*/{name}")
    }
    return tuple(_info(folder, path, opened.drawn_on) for folder, path in sorted(found.items()))


def _info(folder: Path, manifest: Path, experts: Zoo) -> GeneratorInfo:
    try:
        values = read_yaml(manifest)
        origin = Provenance.checked({name: values.get(name) for name in _FIELDS}, source=str(manifest))
        seen = origin.experts or _many(folder)
        forgotten = {edit.facts.expert: edit.facts.adapter_hash for edit in read_edits(folder)}
        return GeneratorInfo(folder.name, folder, behind_of(origin, seen, experts, forgotten=forgotten))
    except LoragenError as error:
        return GeneratorInfo(folder.name, folder, fault=cut(error, 600))


_FIELDS = tuple(name for name, field in Provenance.model_fields.items() if field.is_required())


def _many(folder: Path) -> tuple[str, ...]:
    """Ids of many experts, which stand among the tensors."""
    stored = read_tensors(folder / TENSORS, mapped=MAPPED)[0].get(LIBRARY_IDS)
    if stored is None:
        raise GeneratorError(f"{cut(folder)} does not name the experts that it was trained on; train it again.")
    return ids_of(stored)
