"""Forgets an expert on request: an edit of each generator that knows it, and its removal from the zoo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.forget.edit_fit import fit_edit, is_known
from loragen.continual.forget.gold import train_without
from loragen.continual.forget.judge import Judge
from loragen.continual.forget.lesson import Lesson
from loragen.continual.forget.removal import refuse_packed, remove_expert
from loragen.continual.forget.report import Forgotten, GeneratorReport
from loragen.continual.forget.settings import ForgetSettings
from loragen.errors import GeneratorError, ZooError, shown
from loragen.files import sha256_of
from loragen.generation.pipeline import ENCODER
from loragen.generators.base import Generator
from loragen.generators.edits import TENSORS, Edit, EditableGenerator, EditFacts, read_edits, remove_edit, write_edit
from loragen.generators.history import HISTORY
from loragen.generators.registry import available, forgotten_by, generator_folder, merges, open_generator
from loragen.progress import Progress, silent
from loragen.training.threads import one_thread
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.folds import FOLDS
from loragen.zoo.zoo import SPLIT, Zoo

EDITING, TRAINING = "editing {}", "training {} without it"
"""Stages of the progress, with the name of the generator."""
MOST_HALVINGS = 8
"""Of the penalty, where with it nothing would change."""


def forget(
    expert: str,
    zoo: Zoo | Path | str,
    *,
    generators: Sequence[str] | None = None,
    gold: bool = False,
    keep_expert: bool = False,
    settings: ForgetSettings | None = None,
    encoder: str = ENCODER,
    progress: Progress = silent,
) -> Forgotten:
    """Take an expert out of a zoo and out of what its generators have learnt.

    Each generator gets an edit, a file of its own in the folder ``edits`` of the generator's; then the expert is
    removed from the zoo, and with it from all that is looked up there. A run that is killed leaves edits that are whole
    or not there, and goes on from them.

    Args:
        expert: id of it.
        zoo: the zoo, its folder, or the name of one.
        generators: names of generators to edit; by default all trained ones of the zoo.
        gold: train each generator anew without the expert, as it was trained, and say how near the edit came to that.
        keep_expert: leave the zoo as it is, so that the edits can be undone.
        settings: of the edits.
        encoder: text encoder of descriptions.
        progress: called with the stage, the steps done and their total.

    Raises:
        ZooError: there is no such zoo or expert, or no other expert.
        GeneratorError: a generator is not there, is damaged, or cannot forget.
        ConfigError: another process writes there.
    """
    opened, chosen = _opened(zoo), settings or ForgetSettings()
    card = opened.card(expert)
    _refuse_last(expert, opened)
    if not keep_expert:
        refuse_packed(expert, opened)
    names = _editable(opened) if generators is None else tuple(dict.fromkeys(generators))
    text_encoder, reports = TextEncoder.load(encoder), []
    for name in names if card.split == SPLIT else ():
        one = _One(name, expert, opened, text_encoder, chosen, progress)
        if (report := one.forgotten(gold=gold)) is not None:
            reports.append(report)
    if not keep_expert:
        remove_expert(expert, opened)
    return Forgotten(expert, tuple(reports), not keep_expert, _notes(opened))


def undo_forgetting(expert: str, zoo: Zoo | Path | str, *, generators: Sequence[str] | None = None) -> tuple[str, ...]:
    """Remove the edits by which a zoo's generators have forgotten an expert; returns the names of the generators.

    Args:
        expert: id of it, which the zoo must still have, or have again.
        zoo: the zoo, its folder, or the name of one.
        generators: names of generators; by default all that have such an edit.

    Raises:
        ZooError: the zoo has no such expert; the generators would draw on what is not there.
        GeneratorError: no generator has such an edit.
    """
    opened = _opened(zoo)
    opened.card(expert)
    names = [name for name in _editable(opened) if expert in _forgotten(name, opened)]
    chosen = tuple(names if generators is None else generators)
    if not chosen:
        raise GeneratorError(f"No generator of {opened.root} has an edit that forgets {shown(expert)}.")
    for name in chosen:
        remove_edit(_folder(name, opened), expert)
    return chosen


@dataclass(frozen=True, eq=False)
class _One:
    """One generator, and the expert that it is to forget."""

    name: str
    expert: str
    zoo: Zoo
    encoder: TextEncoder
    settings: ForgetSettings
    progress: Progress

    def forgotten(self, *, gold: bool) -> GeneratorReport | None:
        """Edit it; None if it does not know the expert, or has forgotten it already."""
        folder, expert, zoo = _folder(self.name, self.zoo), self.expert, self.zoo
        found = sha256_of(folder / TENSORS)
        with one_thread():
            generator = _opened_generator(self.name, zoo, self.encoder)
            if expert not in generator.known:
                return None
            known = zoo.select(without=set(zoo.ids) - set(generator.known))
            lesson = Lesson.of(generator, expert, known, self.encoder, self.settings)
            judge = Judge.of(generator, expert, known, _strangers(generator, zoo), self.encoder, self.settings)
            before, unlisted = judge.made_by(generator), judge.unlisted(lesson.generator)
            edit = self._edit(lesson, found)
            best = judge.made_by(self._gold(folder, generator)) if gold else None
            path = write_edit(folder, edit)
            after = judge.made_by(_opened_generator(self.name, zoo, self.encoder))
            return replace(judge.report(self.name, edit, lesson.bound, unlisted, before, after, best), edit=path)

    def _edit(self, lesson: Lesson, generator_hash: str) -> Edit:
        stage, settings = EDITING.format(self.name), self.settings
        return edit_of(
            lesson,
            settings,
            adapter_hash=self.zoo.hashes[self.expert],
            generator_hash=generator_hash,
            on_step=lambda step: self.progress(stage, step, settings.steps),
        )

    def _gold(self, folder: Path, generator: EditableGenerator) -> Generator:
        stage = TRAINING.format(self.name)
        gone = {self.expert, *forgotten_by(generator)} & set(self.zoo.ids)
        return train_without(
            folder, self.zoo, gone, self.encoder, on_step=lambda step, total: self.progress(stage, step, total)
        )


def edit_of(
    lesson: Lesson,
    settings: ForgetSettings,
    *,
    adapter_hash: str,
    generator_hash: str,
    on_step: Callable[[int], None] | None = None,
) -> Edit:
    """The edit by which a generator forgets a lesson's expert, trained; nothing is written.

    Args:
        lesson: generator and experts.
        settings: of the edit.
        adapter_hash: of the expert, as the zoo has it.
        generator_hash: of the generator's tensors.
        on_step: called with the number of steps done.
    """
    factors, layers = fit_edit(lesson, settings, on_step=on_step)
    for _ in range(MOST_HALVINGS if is_known(lesson) else 0):
        if factors:
            break
        settings = settings.model_copy(update={"penalty": settings.penalty / 2})
        factors, layers = fit_edit(lesson, settings, on_step=on_step)
    facts = EditFacts(
        expert=lesson.expert,
        number=1,
        adapter_hash=adapter_hash,
        generator_hash=generator_hash,
        rank=settings.rank,
        layers=layers,
        zero=tuple(layer for layer in layers if layer not in factors),
        settings=settings.model_dump(mode="json"),
        versions={name: version(name) for name in ("loragen", "torch")},
    )
    return Edit(facts, factors)


def _opened(zoo: Zoo | Path | str) -> Zoo:
    return zoo if isinstance(zoo, Zoo) else Zoo.open(Path(zoo))


def _refuse_last(expert: str, zoo: Zoo) -> None:
    others = [card.id for card in zoo if card.split == SPLIT and card.id != expert]
    if not others:
        raise ZooError(f"{expert} is the only expert of {zoo.root} that generators draw on; none would remain.")


def _editable(zoo: Zoo) -> tuple[str, ...]:
    """Names of the trained generators of a zoo."""
    return tuple(name for name in available(zoo) if name not in merges())


def _folder(name: str, zoo: Zoo) -> Path:
    """The folder of a trained generator.

    Raises:
        GeneratorError: there is none of that name, or it is a merge, which has nothing to forget.
    """
    if name in merges():
        raise GeneratorError(f"{name} merges what the zoo holds and has learnt nothing; leave it out.")
    folder = generator_folder(name, zoo)
    if folder is None:
        known = ", ".join(_editable(zoo)) or "none"
        raise GeneratorError(f"There is no trained generator {shown(name)}; this zoo has {known}.")
    return folder


def _forgotten(name: str, zoo: Zoo) -> set[str]:
    """Experts that the generator of a name has forgotten."""
    return {edit.facts.expert for edit in read_edits(_folder(name, zoo))}


def _opened_generator(name: str, zoo: Zoo, encoder: TextEncoder) -> EditableGenerator:
    generator = open_generator(name, zoo, encoder)
    if not isinstance(generator, EditableGenerator):
        raise GeneratorError(f"The generator {shown(name)} cannot be edited; train it anew without the expert.")
    return generator


def _strangers(generator: EditableGenerator, zoo: Zoo) -> list[str]:
    """Experts of a zoo that a generator has never seen."""
    return [name for name in zoo.ids if name not in {*generator.known, *forgotten_by(generator)}]


def _notes(zoo: Zoo) -> tuple[str, ...]:
    """What else was trained on the experts of a zoo, and stays as it is."""
    found = {
        MULTITASK_FOLDER: "the one adapter for all tasks",
        FOLDS: "the folds, at which experts began",
        f"generators/{HISTORY}": "the pool of histories",
    }
    there = [told for name, told in found.items() if (zoo.root / name).exists()]
    if not there:
        return ()
    return (f"Trained on the expert's task too, and not changed: {', '.join(there)}; build or train these anew.",)
