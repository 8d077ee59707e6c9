"""How commands print results: a table for people, JSON for programs."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer


def help_of(command: Callable[..., None]) -> str:
    """Give a command's docstring as help text, with its example left as it is laid out.

    Args:
        command: The function that typer runs.
    """
    return inspect.cleandoc(command.__doc__ or "").replace("Example:\n", "\b\nExample:\n")


def one_line(text: str) -> str:
    """Join the lines of a text, without characters that would steer a terminal: what a file holds may be in it.

    Args:
        text: Any text.
    """
    joined = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in joined)


def lay_out(rows: Sequence[Sequence[str]], width: int = 8) -> str:
    """Lay out rows below one another: the first column to the left, numbers to the right.

    Args:
        rows: Texts of the cells; rows may be of different lengths.
        width: Characters of every column but the first.
    """
    first = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in row[1:]) for row in rows)


def write_json(report: Mapping[str, Any], path: str) -> None:
    """Write a report as JSON.

    Args:
        report: What to write.
        path: File, or "-" for standard output.
    """
    text = json.dumps(report, indent=2)
    if path == "-":
        typer.echo(text)
        return
    from selavpr_peft.files import write_text_atomically

    write_text_atomically(Path(path), text + "\n")


def quiet_host_libraries() -> None:
    """Silence progress bars and notices of the libraries below that say nothing to a user of a command."""
    warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers 5.23 renamed
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
