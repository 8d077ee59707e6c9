"""The `selavpr` command: its sub-commands, and what becomes of a user's mistake."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import selavpr_peft
from selavpr_peft.cli import bench, convert, demo, evaluate, index, query, train


def _help_of(command: Callable[..., None]) -> str:
    """Give a command's docstring as help text, with its example left as it is laid out."""
    return inspect.cleandoc(command.__doc__ or "").replace("Example:\n", "\b\nExample:\n")


app = typer.Typer(
    name="selavpr",
    help="Visual place recognition with SelaVPR adapters on a frozen DINOv2.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="evaluate", help=_help_of(evaluate.evaluate))(evaluate.evaluate)
app.command(name="index", help=_help_of(index.index))(index.index)
app.command(name="query", help=_help_of(query.query))(query.query)
app.command(name="bench", help=_help_of(bench.bench))(bench.bench)
app.command(name="convert", help=_help_of(convert.convert))(convert.convert)
app.command(name="train", help=_help_of(train.train))(train.train)
app.command(name="demo", help=_help_of(demo.demo))(demo.demo)


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        typer.echo(f"selavpr {selavpr_peft.__version__}")
        raise typer.Exit
    return is_wanted


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _settings["debug"] = debug


_settings = {"debug": False}


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if _settings["debug"]:
            raise
        typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
