"""Run records: all that the cells of an evaluation depend on, kept beside them, so that none are mixed with others."""

import hashlib
import json
from pathlib import Path
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.compose.composition import Composition
from loragen.confidence.confidence import Confidence
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.evaluation.cells import CellFile
from loragen.evaluation.composed_rows import composition_digest
from loragen.evaluation.config import INSTRUCTED, MULTITASK, ORACLE, RANDOM, TOPK, mean_output
from loragen.evaluation.report_model import MARKDOWN, REPORT
from loragen.evaluation.workspace import Workspace
from loragen.files import atomic_write
from loragen.generators.registry import generator_folder
from loragen.generators.trained import GENERATOR_MANIFEST
from loragen.tasks.task_set import Task

RUN = "run.yaml"
SETTINGS = ("splits", "unseen_families", "seeds", "with_controls", "short", "unrelated", "unrelated_texts")
"""Settings of the config that bear on every cell."""


class RunRecord(StrictModel):
    """Settings, files and adapters that cells were computed with; methods may come and go, but none may change."""

    settings: dict[str, Any]
    """Those of the config that bear on every cell."""
    facts: dict[str, str]
    """Digests of the zoo, the encoder, the tasks and their files, and the precision; no file's place bears on them."""
    rows: dict[str, str]
    """Method → digest of its generator's files, or of its adapters."""

    def differences(self, other: "RunRecord") -> list[str]:
        """Names of settings, facts and common methods that are not the same."""
        pairs = ((self.settings, other.settings), (self.facts, other.facts))
        names = [name for mine, theirs in pairs for name in mine | theirs if mine.get(name) != theirs.get(name)]
        return names + [name for name in self.rows if other.rows.get(name, self.rows[name]) != self.rows[name]]


def keep_record(workspace: Workspace, file: CellFile) -> None:
    """Write the run's record beside its cells.

    Raises:
        ConfigError: there are cells of other settings, tasks or adapters, or files of others in the place of ours.
    """
    path, wanted = file.path.parent / RUN, record_of(workspace)
    if file.path.exists():
        met = RunRecord.from_yaml(path) if path.exists() else None
        differing = met.differences(wanted) if met else [f"{RUN} is missing"]
        if differing:
            raise ConfigError(
                f"{path.parent} holds an evaluation with other settings, tasks or adapters "
                f"({', '.join(differing)}); give another 'out' or remove it."
            )
        if met:
            wanted = wanted.model_copy(update={"rows": met.rows | wanted.rows})
    elif path.exists():
        RunRecord.from_yaml(path)  # of a run that was interrupted; anything else is not ours to replace
    elif there := [name for name in (REPORT, MARKDOWN) if (path.parent / name).exists()]:
        raise ConfigError(
            f"{path.parent / there[0]} is there and of no evaluation that lies there; give another 'out'."
        )
    file.mend()
    atomic_write(path, wanted.to_yaml())


def record_of(workspace: Workspace) -> RunRecord:
    """The record of an evaluation."""
    settings = workspace.config.model_dump(mode="json", include=set(SETTINGS))
    return RunRecord(settings=settings, facts=_facts(workspace), rows=_method_digests(workspace))


def adapter_digest(adapter: Lora | Composition | None, instruction: str | None) -> str:
    """Digest of an adapter and the instruction that it is used with; ``None`` is the bare base."""
    if isinstance(adapter, Composition):
        return composition_digest(adapter)
    digest = hashlib.sha256((instruction or "").encode())
    for site in adapter.sites if adapter is not None else ():
        digest.update(site.encode())
        for factor in adapter.scaled_factors(site) if adapter is not None else ():
            digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _facts(workspace: Workspace) -> dict[str, str]:
    texts = [task.load_test() for task in workspace.tasks]
    return {
        "zoo": workspace.zoo.fingerprint,
        "encoder": workspace.encoder.fingerprint,
        "tasks": _sha256_of_json([_without_folder(task).model_dump(mode="json") for task in workspace.tasks]),
        "test files": _sha256_of_json([(each.texts, each.pairs, each.labels) for each in texts]),
        "dtype": str(next(workspace.base.model.parameters()).dtype).removeprefix("torch."),
    }


def _without_folder(task: Task) -> Task:
    """A task whose files are named without their folder: the same files elsewhere are the same tasks."""
    files = {part: Path(file).name for part in ("train", "test") if (file := getattr(task.source, part))}
    return task.model_copy(update={"source": task.source.model_copy(update=files)})


def _method_digests(workspace: Workspace) -> dict[str, str]:
    config = workspace.config
    digests = {MULTITASK: adapter_digest(workspace.multitask, None), ORACLE: workspace.oracles.fingerprint}
    if config.instructed is not None:
        digests[INSTRUCTED] = adapter_digest(workspace.instructed, None)
    for name in config.generators:
        digests[name] = _generator_digest(name, workspace)
    digests |= {method: _fall_back_digest(name, digests, workspace) for method, name in workspace.falling_back.items()}
    if config.condition is not None:
        digests |= {
            mean_output(name): _sha256_of_json(["mean output", digests[name]]) for name in config.condition.means
        }
        if config.condition.random_experts:
            digests[RANDOM] = _sha256_of_json(["random experts", digests[TOPK]])
    digests |= {row: workspace.compositions.digest(row) for row in workspace.composed}
    for method, start in workspace.fitted.items():
        assert config.few_shot is not None
        fit = config.few_shot.model_dump(mode="json", include={"shots", "recipe"})
        digests[method] = _sha256_of_json([digests[start], fit])
    return digests


def _fall_back_digest(name: str, digests: dict[str, str], workspace: Workspace) -> str:
    """Digest of a generator and of the models that its gains are foretold by."""
    confidence = Confidence.of(name, workspace.zoo)
    return _sha256_of_json([digests[name], None if confidence is None else confidence.model_dump(mode="json")])


def _generator_digest(name: str, workspace: Workspace) -> str:
    folder = generator_folder(name, workspace.zoo)
    if folder is None:
        return "a merge"  # the zoo and the encoder, which are among the facts, determine it
    files = [folder / GENERATOR_MANIFEST, *sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
