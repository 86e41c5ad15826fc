"""`loragen complete`: an adapter of a language model tried on prompts, beside the bare base."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import BaseOption, JsonOption


def complete(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    prompts: Annotated[list[str], typer.Argument(help="Prompts to complete.", show_default=False)],
    max_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Longest completion.")] = 32,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an adapter on prompts: what the language model most likely writes next, with it and without."""
    import loragen
    from loragen.cli import console

    loaded = loragen.open_adapter(adapter, base=base)
    adapted = loaded.complete(prompts, max_tokens=max_tokens)
    bare = loaded.complete(prompts, max_tokens=max_tokens, adapted=False)
    rows = list(zip(prompts, adapted, bare, strict=True))
    if as_json:
        console.say_json([{"prompt": p, "completion": a, "base_completion": b} for p, a, b in rows])
        return
    console.table(str(adapter), ("prompt", "completion", "bare base"), rows)
