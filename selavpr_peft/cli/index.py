"""`selavpr index`: build a place database."""

from pathlib import Path
from typing import Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json


def index(
    database: Annotated[str, typer.Argument(help="Places to index: DIR, DIR:TRAVERSE or an @utm@ folder.")],
    backbone: options.Backbone,
    output: Annotated[Path, typer.Option(help="Folder for the place database.", show_default=False)],
    adapter: options.Adapter = None,
    local_dtype: options.LocalDType = "float16",
    keep_locations: Annotated[
        int | None, typer.Option(help="Local features kept of every image, at most; by default all.", min=1)
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Index: flat, hnsw, ivf-sq or ivf-pq; by default chosen by size.")
    ] = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 16,
    num_workers: options.NumWorkers = 0,
    strict: options.Strict = False,
    push_to: Annotated[
        str | None, typer.Option(help="Push the database to this dataset repository of the Hub.", metavar="OWNER/NAME")
    ] = None,
    json: options.Json = None,
) -> None:
    r"""Describe places once, so that photographs can be located among them at any time.

    An interrupted run goes on where it stopped when the same command is given again.

    Example:
        selavpr index walk:day --backbone facebook/dinov2-base --adapter my-city --output walk.placedb
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    from selavpr_peft.retrieval import PlaceDatabase

    built = PlaceDatabase.build(
        options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed),
        database,
        output,
        local_dtype=local_dtype,
        keep_locations=keep_locations,
        index_kind=kind,
        batch_size=batch_size,
        num_workers=num_workers,
        is_strict=strict,
    )
    commit_url = None if push_to is None else built.push_to_hub(push_to, image_root=_folder_of(database))
    num_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    unreadable = built.manifest["unreadable_images"]
    if json != "-":
        typer.echo(f"{output}: {len(built)} places, {num_bytes / len(built) / 1e6:.2f} MB each")
        if unreadable:
            typer.echo(f"{len(unreadable)} images could not be read, the first: {unreadable[0]}")
        if commit_url:
            typer.echo(f"pushed to {commit_url}")
    if json is not None:
        write_json({**built.manifest, "num_bytes": num_bytes, "commit_url": commit_url}, json)


def _folder_of(location: str) -> Path:
    """Give the folder that DIR, DIR:TRAVERSE or a table lies in, or is."""
    from selavpr_peft.data.place_table import split_location

    path = Path(location)
    return path if path.is_dir() else split_location(location)[0].parent
