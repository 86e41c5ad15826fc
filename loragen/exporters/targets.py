"""The forms that an adapter can be exported in: one row each, and one file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.bases.kept import source_gguf
from loragen.errors import ConfigError, shown
from loragen.exporters import engine_folders, gguf_lora, gguf_model, sentence_folder
from loragen.exporters.export import Exported, Request


@dataclass(frozen=True)
class Target:
    """A form that an adapter can be exported in."""

    name: str
    writes: str
    """What it writes, in words."""
    dtypes: tuple[str, ...]
    """Types of the tensors that hold the update, the default first."""
    write: Callable[[Request], Exported]


TARGETS = (
    Target(
        "gguf",
        "a LoRA file for llama.cpp's --lora",
        tuple(gguf_lora.DTYPES),
        gguf_lora.write_gguf_lora,
    ),
    Target(
        "gguf-model",
        "base and adapter as one GGUF model, for Ollama and llama.cpp",
        gguf_model.DTYPES,
        gguf_model.write_gguf_model,
    ),
    Target("vllm", "a folder for vLLM's filesystem resolver", ("f32",), engine_folders.write_vllm),
    Target("sglang", "a folder for SGLang's --lora-paths", ("f32",), engine_folders.write_sglang),
    Target("lorax", "a folder for LoRAX", ("f32",), engine_folders.write_lorax),
    Target(
        "sentence-transformers",
        "a folder for SentenceTransformer(folder)",
        ("f32",),
        sentence_folder.write_sentence_transformer,
    ),
)
FOLDERS = ("vllm", "sglang", "lorax", "sentence-transformers")
"""Names of the targets that are folders, which an engine picks up."""


def export_adapter(
    adapter: Lora,
    base: str,
    out: Path,
    *,
    to: str,
    dtype: str | None = None,
    base_gguf: Path | None = None,
    base_name: str | None = None,
    modelfile: bool = False,
    system: str | None = None,
    force: bool = False,
    is_local: bool = False,
) -> Exported:
    """Write an adapter in one of the `TARGETS`; ``system`` is the system turn that its prompts want.

    Raises:
        ConfigError: there is no such target, or it has no such type.
        LoragenError: the target refuses the adapter; see there.
    """
    target = next((each for each in TARGETS if each.name == to), None)
    if target is None:
        known = "; ".join(f"{each.name}: {each.writes}" for each in TARGETS)
        raise ConfigError(f"There is no target {shown(to)}; give one of these with --to: {known}.")
    if dtype is not None and dtype not in target.dtypes:
        raise ConfigError(
            f"{target.name} has no type {shown(dtype)}; give one of {', '.join(target.dtypes)} with --dtype."
        )
    if modelfile and target.name != "gguf-model":
        raise ConfigError("A Modelfile is written beside a whole model; give --to gguf-model.")
    kind = dtype or target.dtypes[0]
    request = Request(
        adapter,
        base,
        out,
        kind,
        base_gguf=base_gguf or source_gguf(base),
        base_name=base_name,
        modelfile=modelfile,
        system=system,
        force=force,
        is_local=is_local,
    )
    made = target.write(request)
    return made if not system else replace(made, notes=(*made.notes, f"prompts want the system turn {shown(system)}"))
