"""What a server holds: zoo and base, adapters, the thread that computes, and jobs."""

import asyncio
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from loragen.bases.base import Base
from loragen.errors import ConfigError, TaskError
from loragen.files import not_ours
from loragen.generation.generate import generated
from loragen.generation.given import Given
from loragen.generation.pipeline import Pipeline
from loragen.generation.refine import Refiner
from loragen.generators.registry import available, default_generator
from loragen.inference import Adapter
from loragen.progress import Progress, silent
from loragen.serving.batcher import Batcher
from loragen.serving.jobs import Job, Jobs
from loragen.serving.schemas import NewAdapter
from loragen.serving.settings import Limits, ServeSettings
from loragen.serving.store import AdapterStore
from loragen.serving.texts import Texts
from loragen.serving.watched import Watched
from loragen.tasks.examples import Examples
from loragen.values import checked_name
from loragen.zoo.zoo import Zoo


class TooLarge(ConfigError):
    """More is asked for than a request may."""


def within(limit: int, size: int, what: str) -> None:
    """Refuse what is beyond a cap.

    Raises:
        TooLarge: it is.
    """
    if size > limit:
        raise TooLarge(f"{size:,} {what} were given; at most {limit:,} are taken.")


@dataclass(frozen=True, eq=False)
class Service:
    """Everything that requests share."""

    settings: ServeSettings
    watched: Watched
    """The zoo."""
    base: Base
    store: AdapterStore
    batcher: Batcher
    texts: Texts
    jobs: Jobs
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request whose adapters are drawn, so that those that wait take no thread from others."""
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)
    _alone: threading.Lock = field(default_factory=threading.Lock)
    """Held while names are given out, and while a generation is drawn."""
    _own_base: list[Base] = field(default_factory=list)
    """The base that jobs compute over, apart from the one that answers; loaded with the first."""

    @classmethod
    def open(cls, settings: ServeSettings) -> Self:
        """Load zoo, base and generator.

        Raises:
            ZooError: there is no such zoo.
            ConfigError: the base is not at hand.
            GeneratorError: there is no such generator.
        """
        watched = Watched.open(None if settings.zoo is None else Path(settings.zoo))
        zoo, base = watched.zoo, watched.zoo.load_base()
        root = settings.adapters.resolve()  # which no word of a message is mistaken for
        store, batcher = AdapterStore(root, base, settings.limits), Batcher(base)
        jobs = Jobs(root, settings.limits.jobs, partial(_without, (root, zoo.root)))
        made = cls(settings, watched, base, store, batcher, Texts(base, batcher, store), jobs)
        made.pipeline(made.generator)
        return made

    def close(self) -> None:
        """Finish what was begun, and end the threads."""
        self.jobs.stop()
        self.batcher.stop()

    @property
    def zoo(self) -> Zoo:
        """The zoo as it was opened last."""
        return self.watched.zoo

    @cached_property
    def base_name(self) -> str:
        """The base as clients know it: by its name, or the last part of its folder's path."""
        name = self.base.name
        return Path(name).name if Path(name).is_dir() else name

    @cached_property
    def plane(self) -> tuple[Tensor, Tensor]:
        """The principal directions (2, d) of the experts' descriptions, and their centre (d,)."""
        vectors = self.pipeline(self.generator).experts.index.vectors
        centre = vectors.mean(0)
        right = torch.linalg.svd(vectors - centre, full_matrices=False).Vh[:2]
        return right * right.gather(1, right.abs().argmax(1, keepdim=True)).sign(), centre

    def without_places(self, message: str) -> str:
        """A message that tells no client where things lie on this machine."""
        return _without((self.store.folders.root, self.zoo.root), message)

    @property
    def limits(self) -> Limits:
        """Caps on what a client may ask."""
        return self.settings.limits

    @cached_property
    def generator(self) -> str:
        """Name of the generator where a request names none."""
        return self.settings.generator or default_generator(self.zoo)

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of generators that a request may name; paths are none."""
        return available(self.zoo)

    def pipeline(self, name: str) -> Pipeline:
        """A generator, opened once, and again when experts have come to the zoo or gone.

        Raises:
            ConfigError: there is none of that name.
        """
        if self.watched.renewed():
            self._pipelines.clear()
            self.__dict__.pop("plane", None)
        if name not in self.generators:
            raise ConfigError(f"There is no generator {name!r}; there are {', '.join(self.generators)}.")
        found = self._pipelines.get(name)
        if found is None:
            found = self._pipelines[name] = Pipeline.open(name, self.zoo)
        return found

    def refuse_too_large(self, asked: NewAdapter) -> None:
        """Refuse what is beyond the caps.

        Raises:
            TooLarge: something is.
        """
        limits = self.limits
        within(limits.description, len(asked.description), "characters of a description")
        within(limits.labels, len(asked.labels or ()), "labels")
        within(limits.texts, len(asked.texts or ()), "texts")
        within(limits.examples, len(asked.examples or ()), "examples")
        within(limits.history, len(asked.history or ()), "past texts")
        within(limits.samples, asked.samples, "samples")
        said = [*(asked.labels or ()), *(asked.texts or ()), *(one.text for one in asked.examples or ())]
        said += asked.history or ()
        within(limits.characters, max(map(len, said), default=0), "characters of a text")

    def generate(self, asked: NewAdapter) -> list[str]:
        """Generate adapters from a description at once, and keep them; their names.

        Raises:
            LoragenError: the request cannot be met.
        """
        with self._alone:
            names = self._free_names(asked)
            self._make(asked, names, silent)
        return names

    def start(self, asked: NewAdapter) -> Job:
        """Begin a job that generates adapters and fits them to texts or examples.

        Raises:
            LoragenError: the request cannot be met.
        """
        with self._alone:
            self._given(asked)  # so that a request which cannot be met is told so now
            names = self._free_names(asked)
            return self.jobs.start(names, lambda progress: self._make(asked, names, progress))

    def _free_names(self, asked: NewAdapter) -> list[str]:
        stem = asked.name or _name_of(asked.description)
        claimed = self.jobs.claimed()

        def is_free(name: str) -> bool:
            return name not in claimed and (asked.replace or not self.store.folders.is_taken(name))

        if asked.name is None:
            stem = next(name for name in _numbered(stem) if all(map(is_free, _series(name, asked.samples))))
        names = sorted(_series(stem, asked.samples), key=lambda name: (len(name), name))
        for name in names:
            self.store.folders.free_name(name, replace=asked.replace)
            if name in claimed:
                raise ConfigError(f"A job is making an adapter {name!r}; choose another name.")
        return names

    def _given(self, asked: NewAdapter) -> Given:
        examples = None
        if asked.examples:
            named = list(dict.fromkeys(asked.labels or [one.label for one in asked.examples]))
            if strange := [one.label for one in asked.examples if one.label not in named]:
                raise TaskError(f"An example has the label {strange[0]!r}, which is not among the labels.")
            examples = Examples(
                tuple(one.text for one in asked.examples),
                labels=tuple(named.index(one.label) for one in asked.examples),
                label_names=tuple(named),
            )
        return Given.read(
            asked.description,
            labels=asked.labels,
            examples=examples,
            fit=examples is not None,
            texts=asked.texts,
            shares=asked.shares,
            own_adapter=None,
            history=asked.history or None,
        )

    def _make(self, asked: NewAdapter, names: Sequence[str], progress: Progress) -> None:
        pipeline = self.pipeline(asked.generator or self.generator)
        refiner = Refiner(pipeline, self._given(asked), asked.fallback, samples=asked.samples, progress=progress)
        if asked.texts or asked.examples:
            refiner.__dict__["loaded"] = self._base_of_jobs()
        for name, adapter in zip(names, generated(refiner, seed=asked.seed, drawn=asked.samples), strict=True):
            self._drop(name, adapter)
            self.store.add(name, adapter, replace=asked.replace)

    def _drop(self, name: str, adapter: Adapter) -> None:
        """Write an adapter for another engine, where that is wanted.

        Raises:
            AdapterError: that engine would refuse it.
        """
        settings = self.settings
        if settings.drop is not None:
            settings.drop.mkdir(parents=True, exist_ok=True)
            target = settings.drop / name
            adapter.export(target, to=settings.drop_for, base_name=settings.base_name, force=True)

    def remove(self, name: str) -> None:
        """Delete an adapter, also where it was written for another engine.

        Raises:
            UnknownAdapter: there is none of that name.
            ConfigError: a folder of it holds files that loragen did not write.
        """
        self.store.remove(name)
        dropped = None if self.settings.drop is None else self.settings.drop / name
        if dropped is not None and dropped.is_dir() and not not_ours(dropped):
            shutil.rmtree(dropped)

    def _base_of_jobs(self) -> Base:
        if not self._own_base:
            self._own_base.append(self.zoo.load_base())
        return self._own_base[0]


def _without(places: Sequence[Path], message: str) -> str:
    for place in places:
        message = message.replace(f"{place}/", "").replace(str(place), "this server")
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)", r"'\1'", message)  # the library speaks of the command line's options


def _name_of(description: str) -> str:
    """A name in small letters from the first words of a description."""
    words = re.findall(r"[a-z0-9]+", description.lower())
    name = "-".join(words[:6])[:60].strip("-")
    try:
        return checked_name(name)
    except ValueError:  # no word is left of it, or Windows keeps it for a device
        return f"adapter-{name}".strip("-")


def _numbered(stem: str) -> Iterator[str]:
    """The name itself, and then others that end in a number."""
    yield stem
    yield from (f"{stem}.{number}" for number in count(2))


def _series(stem: str, samples: int) -> set[str]:
    """Names of several samples."""
    return {stem, *(f"{stem}-{number}" for number in range(2, samples + 1))}
