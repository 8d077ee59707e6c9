"""`selavpr push`: publish an adapter on the Hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json


def push(
    adapter: Annotated[Path, typer.Argument(help="Folder of a saved adapter.")],
    repo: Annotated[str, typer.Argument(help="Hub id to publish it as, for example me/city-adapter.")],
    report: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of `selavpr evaluate` for the model card; may be repeated.", metavar="PATH"),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Hub id of the backbone, where the adapter names a folder of this machine.")
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, for example apache-2.0.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made if there is none.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload adapter",
    json: options.Json = None,
) -> None:
    """Publish an adapter with a model card written from its files and evaluation reports.

    You must be logged in (`hf auth login`), or have set HF_TOKEN. The folder itself is not changed; an interrupted
    push is repeated by the same command.

    Example:
        selavpr push my-city me/city-adapter --report result.json --license apache-2.0
    """
    quiet_host_libraries()
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from selavpr_peft.hub.pushing import push_adapter

    disable_progress_bars()
    published = push_adapter(
        adapter,
        repo,
        reports=read_reports(report) if report else None,
        backbone=backbone,
        license_id=license_id,
        private=private or None,
        revision=revision,
        message=message,
    )
    if json != "-":
        typer.echo(f"{published.url}\n{published.num_bytes / 1e6:.1f} MB; load it by selavpr_peft.load({repo!r})")
        if published.backbone is None:
            typer.echo("Its backbone is no model on the Hub: whoever loads it has to pass backbone=.")
        if not published.is_card_ours:
            typer.echo("README.md was written by somebody else and stays as it is.")
    if json is not None:
        write_json({"repo": repo, "revision": revision} | asdict(published), json)


def read_reports(paths: list[Path]) -> list[dict[str, Any]]:
    """Read evaluation reports; a file holds one or a list of them.

    Args:
        paths: Files.

    Raises:
        ValueError: If one is no JSON.
    """
    from json import JSONDecodeError, loads

    reports: list[dict[str, Any]] = []
    for path in paths:
        try:
            content = loads(path.read_text(encoding="utf-8"))
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} must be the JSON of `selavpr evaluate --json PATH`: {error}.") from error
        reports += content if isinstance(content, list) else [content]
    return reports
