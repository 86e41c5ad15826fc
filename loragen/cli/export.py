"""`loragen export`: an adapter in the form of another program."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import BaseOption, JsonOption


def export(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    to: Annotated[
        str,
        typer.Option(
            help="gguf: a LoRA file for llama.cpp; gguf-model: base and adapter as one GGUF model, for Ollama; vllm: a "
            "folder for its resolver; sglang: for --lora-paths; lorax: for local ones; sentence-transformers: for "
            "SentenceTransformer(folder)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file (.gguf) or folder to write.")],
    base: BaseOption = None,
    base_gguf: Annotated[
        Path | None, typer.Option(help="The base as a GGUF file: merged into by gguf-model, compared with by gguf.")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option(help="The base as that program names it (default: as the adapter does).")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="How the update is kept: f32 (default) or f16; for gguf-model f16 (default), f32 or q8_0."),
    ] = None,
    modelfile: Annotated[
        bool, typer.Option("--modelfile", help="Write a Modelfile for Ollama beside the model.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a GGUF file or our folder there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an adapter in the form of another program; it is read back and compared with the adapter."""
    import loragen
    from loragen.cli import console

    loaded = loragen.Adapter.load(adapter, base=base)
    made = loaded.export(
        out, to=to, base_gguf=base_gguf, base_name=base_name, dtype=dtype, modelfile=modelfile, force=force
    )
    notes = (*loaded.notes, *made.notes)
    if as_json:
        facts = {"file": str(made.file), "architecture": made.arch, "sites": made.sites, "dtype": made.dtype}
        console.say_json(facts | {"use": made.use} | ({"notes": notes} if notes else {}))
        return
    for note in notes:
        console.warn(note)
    console.done(f"{made.file}: {made.sites} sites of a {made.arch} model in {made.dtype}; {made.use}")
