"""`loragen serve`: generates adapters and answers with them, over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ZooOption


def serve(
    adapters: Annotated[Path, typer.Option("--adapters", help="Folder that adapters are kept in.")] = Path("adapters"),
    zoo: ZooOption = None,
    generator: Annotated[
        str | None, typer.Option(help="Generator of adapters, where a request names none (default: the zoo's own).")
    ] = None,
    drop: Annotated[
        Path | None, typer.Option(help="Folder to write adapters to for another engine as well, which picks them up.")
    ] = None,
    drop_for: Annotated[str, typer.Option(help="That engine: vllm, sglang, lorax or sentence-transformers.")] = "vllm",
    base_name: Annotated[str | None, typer.Option(help="The base as that engine names it.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's want a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8421,
    api_key: Annotated[
        str | None, typer.Option(envvar="LORAGEN_API_KEY", help="Key that every request must bring.")
    ] = None,
) -> None:
    """Serve adapters: a page, OpenAI's and TEI's routes, and routes that generate adapters."""
    import loragen
    from loragen.cli import console

    def say(address: str) -> None:
        console.say(f"Serving at {address}, adapters in {adapters}. Ctrl-C ends it.")

    loragen.serve(
        adapters,
        zoo=zoo,
        generator=generator,
        drop=drop,
        drop_for=drop_for,
        base_name=base_name,
        host=host,
        port=port,
        api_key=api_key or None,
        on_ready=say,
    )
