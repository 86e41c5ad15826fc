"""Check of an adapter folder: its keys and shapes against the base, without the base's weights, and what loads it."""

from dataclasses import dataclass
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import find_adapter
from loragen.adapters.reading import read_json
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.architecture import Architecture
from loragen.bases.saved_along import remarks
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.compatibility import verdicts
from loragen.exporters.peft_loading import PeftLoading, load_with_peft
from loragen.exporters.verdict import REWRITE, Verdict


@dataclass(frozen=True)
class CheckResult:
    """Findings on an adapter."""

    adapter: Lora
    base: str | None
    """Folder or Hub name of the base."""
    architecture: Architecture | None
    """Modules of the base; `None` where its config is not at hand."""
    remark: str | None
    """Reason why keys and shapes were not compared with the base."""
    notes: tuple[str, ...]
    """Remarks on the folder, such as keys that were renamed."""
    faults: tuple[str, ...]
    """Everything that keeps the adapter from changing the base as it was meant to, each with the way out."""
    verdicts: tuple[Verdict, ...]


def check(folder: Path | str, base: str | None = None) -> CheckResult:
    """Check an adapter folder; only a base that is given by name is looked for on the Hub.

    PEFT loads the adapter, on a base without memory; vLLM and LoRAX are judged by their rules.

    Raises:
        AdapterError: the folder is missing, damaged, or holds something unsupported.
        ConfigError: there is no such base.
    """
    adapter = Lora.load(Path(folder))
    folder, _ = find_adapter(Path(folder))
    architecture, remark = _architecture(adapter, base)
    notes, changed = _saved_along(adapter, base or adapter.settings.base)
    faults = _unchanging(adapter) + changed + (() if architecture is None else architecture.faults(adapter))
    found = verdicts(
        adapter,
        config=read_json(folder / CONFIG_NAME),
        base=architecture,
        loading=None if architecture is None else _loading(folder, architecture),
        served=None if architecture is None else _served(architecture, is_local=base is None),
    )
    if adapter.origin.is_rewritten:
        found = tuple(map(_unless_rewritten, found))
    name = base or adapter.settings.base_model_name_or_path
    return CheckResult(adapter, name, architecture, remark, notes, faults, found)


def _architecture(adapter: Lora, given: str | None) -> tuple[Architecture | None, str | None]:
    task_type = adapter.settings.task_type
    if given is not None:
        return Architecture.fitting(given, adapter.sites, task_type), None
    name = adapter.settings.base_model_name_or_path
    if name is None:
        return None, "the adapter does not name its base; give it with --base."
    try:
        found = Architecture.at_hand(name, adapter.sites, task_type)
    except ConfigError as error:
        return None, str(error)
    missing = f"the config of {name!r} is not on this machine; give --base to fetch it, or the folder of the base."
    return found, missing if found is None else None


def _saved_along(adapter: Lora, base: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remarks on the folder, and the fault of weights of the base that were changed."""
    try:
        return (adapter.origin.notes if base is None else remarks(adapter, base)), ()
    except AdapterError as error:
        return adapter.origin.notes, (str(error),)


def _unless_rewritten(verdict: Verdict) -> Verdict:
    """A verdict by rules holds for an adapter as PEFT writes it; PEFT's own loading is told as it was."""
    if verdict.server == "PEFT":
        return verdict
    refusal = f"{verdict.server} does not load a folder that is not as PEFT writes it; {REWRITE}."
    return Verdict.of(verdict.server, (refusal, *verdict.problems), notes=verdict.notes)


def _unchanging(adapter: Lora) -> tuple[str, ...]:
    """The fault of an adapter that does nothing."""
    if adapter.norm() > 0:
        return ()
    return (
        "All delta weights of the adapter are zero, so that it leaves its base unchanged; train it, or export it again "
        "after training.",
    )


def _loading(folder: Path, architecture: Architecture) -> PeftLoading | None:
    try:
        return load_with_peft(folder, architecture)
    except ConfigError:
        return None


def _served(architecture: Architecture, *, is_local: bool) -> Architecture:
    """The base as servers build it: as the class that its config names, where that can be laid out."""
    try:
        return Architecture.of(architecture.name, is_local=is_local)
    except ConfigError:
        return architecture
