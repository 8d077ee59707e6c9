"""The `selavpr` command: its sub-commands, and what becomes of a user's mistake."""

import sys
from typing import Annotated, Any, NoReturn

import typer

import selavpr_peft
from selavpr_peft.cli import bench, calibrate, convert, demo, evaluate, index, push, query, serve, train, visualize
from selavpr_peft.cli.printing import help_of, one_line
from selavpr_peft.redaction import without_secrets

UsageError: Any = typer.BadParameter.__base__
"""What typer raises where arguments are wrong; it exports the kinds of it, and not itself."""

app = typer.Typer(
    name="selavpr",
    help="Visual place recognition with SelaVPR adapters on a frozen DINOv2.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    (demo.demo, "Train on a synthetic city and find other places of it."),
    (train.train, "Train an adapter on mined triplets."),
    (evaluate.evaluate, "Print Recall@1/5/10 of retrieval and after re-ranking."),
    (index.index, "Build a place database, or add places to one."),
    (query.query, "Locate photographs in a place database."),
    (calibrate.calibrate, "Fit the probability that a first answer is right."),
    (serve.serve, "Open a web page that locates photographs."),
    (bench.bench, "Time describing, searching and re-ranking."),
    (convert.convert, "Convert an official SelaVPR checkpoint to an adapter."),
    (push.push, "Publish an adapter with a model card."),
)
"""All but `visualize`, which has commands of its own, with what the list of commands says of each."""

for _command, _summary in COMMANDS:
    app.command(name=_command.__name__, help=help_of(_command), short_help=_summary)(_command)
app.add_typer(visualize.app, name="visualize", short_help="Draw candidates, matches, attention, recalls, a map.")


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
        sys.exit(app(prog_name="selavpr", standalone_mode=False))
    except typer.Abort:
        _stop("Aborted.", code=1)
    except UsageError as error:
        _stop(_how_to_use(error))
    except (ValueError, OSError, ImportError) as error:
        if _settings["debug"]:
            raise
        _stop(f"Error: {_told(str(error))}")


def _how_to_use(error: Any) -> str:
    """Say what is wrong with the arguments; without any, how the command is used."""
    message, context = error.format_message(), error.ctx
    if context is None or message == context.get_help():
        return str(message)
    return f"Error: {_told(message).removesuffix('.')} (see {context.command_path} --help)"


def _told(message: str) -> str:
    return one_line(without_secrets(message))


def _stop(message: str, code: int = 2) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
