"""The command line: every command parses, calls the library, and prints. One module a command."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loragen.cli import base, bench, config
from loragen.cli.check import check
from loragen.cli.classify import classify
from loragen.cli.combine import combine
from loragen.cli.complete import complete
from loragen.cli.compose import compose
from loragen.cli.evaluate import evaluate
from loragen.cli.export import export
from loragen.cli.forget import forget
from loragen.cli.generate import generate
from loragen.cli.interrupts import one_line_at_ctrl_c
from loragen.cli.merge import merge
from loragen.cli.recipes import recipes
from loragen.cli.recover import recover
from loragen.cli.serve import serve
from loragen.cli.train import train
from loragen.cli.zoo_add import zoo_add
from loragen.cli.zoo_build import zoo_build, zoo_init
from loragen.cli.zoo_check import zoo_check
from loragen.cli.zoo_import import zoo_import
from loragen.cli.zoo_list import zoo_list, zoo_show
from loragen.cli.zoo_novelty import zoo_describe, zoo_novelty
from loragen.cli.zoo_pack import zoo_pack
from loragen.cli.zoo_remove import zoo_remove
from loragen.cli.zoo_search import zoo_search
from loragen.cli.zoo_update import zoo_update
from loragen.errors import LoragenError, cut

INTERRUPTED = 130
"""Status after Ctrl-C."""
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""Click's; newer versions of typer bring their own click along."""
SETTINGS = {"help_option_names": ["-h", "--help"]}
_OF_NAMES = {
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
}
"""Faults of a name that the user gave, rather than of the disk."""


class _Commands(TyperGroup):
    """Cuts what click repeats of values that do not fit."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _short_usage():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _short_usage():
            return super().invoke(ctx)


@contextmanager
def _short_usage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)  # of click's errors; typer brings classes of its own, without a name
        if isinstance(message, str):
            error.message = cut(message, 400)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Commands,
    help="Describe a task in words; get a LoRA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)
zoo_app = typer.Typer(help="Build and inspect zoos of expert adapters.", no_args_is_help=True)
base_app = typer.Typer(help="Base models that are kept on this machine, by name.", no_args_is_help=True)
bench_app = typer.Typer(help="Compare ways to train, on tasks of your choice.", no_args_is_help=True)
config_app = typer.Typer(help="Ready configs, to read and to copy.", no_args_is_help=True)
app.command()(generate)
app.command()(classify)
app.command()(complete)
app.command()(evaluate)
app.command()(merge)
app.command()(export)
app.command()(combine)
app.command()(compose)
app.command()(recover)
app.command()(check)
app.command()(train)
app.command()(forget)
app.command()(recipes)
app.command()(serve)
app.add_typer(zoo_app, name="zoo")
app.add_typer(base_app, name="base")
app.add_typer(bench_app, name="bench")
app.add_typer(config_app, name="config")
zoo_app.command("init")(zoo_init)
zoo_app.command("build")(zoo_build)
zoo_app.command("add")(zoo_add)
zoo_app.command("remove")(zoo_remove)
zoo_app.command("update")(zoo_update)
zoo_app.command("import")(zoo_import)
zoo_app.command("list")(zoo_list)
zoo_app.command("show")(zoo_show)
zoo_app.command("search")(zoo_search)
zoo_app.command("novelty")(zoo_novelty)
zoo_app.command("describe")(zoo_describe)
zoo_app.command("check")(zoo_check)
zoo_app.command("pack")(zoo_pack)
base_app.command("get")(base.base_get)
base_app.command("list")(base.base_list)
base_app.command("show")(base.base_show)
bench_app.command("recipes")(bench.bench_recipes)
base_app.command("prune")(base.base_prune)
config_app.command("list")(config.config_list)
config_app.command("show")(config.config_show)
config_app.command("copy")(config.config_copy)


def _show_version(wanted: bool) -> None:
    if wanted:
        import loragen

        typer.echo(f"loragen {loragen.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Describe a task in words; get a LoRA."""


def main() -> None:
    """Run the command line.

    A user's mistake ends with status 2 and no traceback, a disk or memory that fails with 1, Ctrl-C with 130.
    """
    from loragen.cli import console

    console.prepare()
    with one_line_at_ctrl_c() as ctrl_c, _memory_that_is_too_small():
        try:
            try:
                status = app(standalone_mode=False) or 0
            finally:
                sys.stdout.flush()  # here, where a full disk is still one line
        except _UsageError as error:
            console.say_usage(error)
            sys.exit(2)
        except LoragenError as error:
            if ctrl_c.came:  # and was swallowed on its way
                raise
            console.say_error(str(error))
            sys.exit(2)
        except BrokenPipeError:  # whoever read the output has seen enough
            sys.stdout = None  # or Python complains at its end
            sys.exit(1)
        except OSError as error:
            if ctrl_c.came:
                raise
            place = f"{cut(error.filename)}: " if error.filename else ""
            console.say_error(f"{place}{error.strerror or cut(error)}; nothing was half written.")
            sys.stdout = None  # it may be what failed
            sys.exit(2 if error.errno in _OF_NAMES else 1)
        if status == INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        sys.exit(status)


@contextmanager
def _memory_that_is_too_small() -> Iterator[None]:
    """End with one line where the memory is too small: torch's own errors are RuntimeErrors, told by their words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(part in str(error).lower() for part in words):
            raise
        from loragen.cli import console

        console.say_error("the memory is too small for this; choose smaller sizes. Nothing was half written.")
        sys.exit(1)
