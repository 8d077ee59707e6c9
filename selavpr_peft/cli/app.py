"""The `selavpr` command: its sub-commands, and what becomes of a user's mistake."""

import sys
from typing import Annotated

import typer

import selavpr_peft
from selavpr_peft.cli import bench, calibrate, convert, demo, evaluate, index, push, query, serve, train, visualize
from selavpr_peft.cli.printing import help_of
from selavpr_peft.redaction import without_secrets

app = typer.Typer(
    name="selavpr",
    help="Visual place recognition with SelaVPR adapters on a frozen DINOv2.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="evaluate", help=help_of(evaluate.evaluate))(evaluate.evaluate)
app.command(name="calibrate", help=help_of(calibrate.calibrate))(calibrate.calibrate)
app.command(name="index", help=help_of(index.index))(index.index)
app.command(name="query", help=help_of(query.query))(query.query)
app.command(name="serve", help=help_of(serve.serve))(serve.serve)
app.command(name="bench", help=help_of(bench.bench))(bench.bench)
app.command(name="convert", help=help_of(convert.convert))(convert.convert)
app.command(name="train", help=help_of(train.train))(train.train)
app.command(name="push", help=help_of(push.push))(push.push)
app.add_typer(visualize.app, name="visualize")
app.command(name="demo", help=help_of(demo.demo))(demo.demo)


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
        typer.echo(f"Error: {without_secrets(' '.join(str(error).split()))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
