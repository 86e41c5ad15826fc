"""`loragen complete`: an adapter of a language model tried on prompts, beside the bare base."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import BaseOption, JsonOption, base_name
from loragen.errors import AdapterError, TaskError


def complete(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    prompts: Annotated[list[str], typer.Argument(help="Prompts to complete.", show_default=False)],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 32,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an adapter on prompts: what the language model most likely writes next, with it and without."""
    if not all(prompt.strip() for prompt in prompts):
        raise TaskError("One of the prompts is empty; every prompt must hold at least a word.")
    from loragen.adapters.adapter import Lora
    from loragen.bases.language_model import CausalLM
    from loragen.bases.open import objective_of, open_base
    from loragen.cli import console

    loaded = Lora.load(adapter)
    task_type = loaded.settings.task_type
    backbone = open_base(base_name(loaded.settings.base_model_name_or_path, base), objective=objective_of(task_type))
    if not isinstance(backbone, CausalLM):
        raise AdapterError(
            f"{adapter} is of the task type {task_type}, whose base writes no text; try it with `loragen classify`."
        )
    ids = backbone.prompts(prompts)
    bare = backbone.continued(ids, max_new_tokens=max_tokens)
    with backbone.adapted(loaded):
        adapted = backbone.continued(ids, max_new_tokens=max_tokens)
    rows = list(zip(prompts, adapted, bare, strict=True))
    if as_json:
        console.say_json([{"prompt": p, "completion": a, "base_completion": b} for p, a, b in rows])
        return
    console.table(str(adapter), ("prompt", "completion", "bare base"), rows)
