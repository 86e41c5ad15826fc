"""Check of an adapter folder: its keys and shapes against the base, without the base's weights, and what loads it."""

from dataclasses import dataclass
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import find_adapter
from loragen.adapters.reading import read_json
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.architecture import Architecture
from loragen.bases.hub import local_model
from loragen.bases.renaming import fused, renamed
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
    loading = None if architecture is None else _loading(folder, architecture)
    found = adapter if architecture is None or loading is None else _as_found(adapter, architecture, loading)
    unfitting = () if architecture is None or found is None else architecture.faults(found)
    name = base or adapter.settings.base
    notes, changed = _saved_along(adapter, name)
    judged = verdicts(
        adapter,
        found=found,
        config=read_json(folder / CONFIG_NAME),
        base=architecture,
        loading=loading,
        served=None if architecture is None else _served(architecture, is_local=base is None),
    )
    if adapter.origin.is_rewritten:
        judged = tuple(map(_unless_rewritten, judged))
    faults = (*_unchanging(adapter), *changed, *unfitting)
    return CheckResult(adapter, name, architecture, remark, notes, faults, judged)


def _architecture(adapter: Lora, given: str | None) -> tuple[Architecture | None, str | None]:
    task_type = adapter.settings.task_type
    if given is not None:
        return Architecture.fitting(given, adapter.sites, task_type), None
    name = adapter.settings.base
    if name is None:
        return None, "the adapter does not name its base; give it with --base."
    try:
        found = Architecture.at_hand(name, adapter.sites, task_type)
    except ConfigError as error:
        return None, str(error)
    if found is not None:
        return found, None
    try:
        local_model(name)
    except ConfigError as error:  # a path of another machine
        return None, str(error)
    return None, f"the config of {name!r} is not on this machine; give --base to fetch it, or the folder of the base."


def _as_found(adapter: Lora, base: Architecture, loading: PeftLoading) -> Lora | None:
    """An adapter under the names by which PEFT finds its sites; `None` where it fuses them, as those of experts."""
    if not loading.loads or loading.left_out:
        return adapter
    return None if fused(adapter, base) else renamed(adapter, base)


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
