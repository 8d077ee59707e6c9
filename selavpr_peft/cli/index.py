"""`selavpr index`: build a place database, or add places to one."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json


def index(
    database: Annotated[
        str, typer.Argument(help="Places to index: DIR, DIR:TRAVERSE, an @utm@ folder or photographs alone.")
    ],
    backbone: options.Backbone,
    output: Annotated[Path | None, typer.Option(help="Folder for a new place database.", metavar="FOLDER")] = None,
    add_to: Annotated[
        Path | None, typer.Option(help="Place database to add the places to, instead of --output.", metavar="FOLDER")
    ] = None,
    adapter: options.Adapter = None,
    local_dtype: Annotated[
        str | None, typer.Option(help="Form of the local features: float32, float16 (the default), int8 or binary.")
    ] = None,
    keep_locations: options.KeepLocations = None,
    kind: Annotated[
        str | None, typer.Option(help="Index: flat, ivf-fastscan, hnsw, ivf-sq or ivf-pq; by default chosen by size.")
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

    An interrupted run goes on where it stopped when the same command is given again. DIR holds a table places.csv
    (docs/datasets.md); photographs without one are found by name.

    Example:
        selavpr index photos --backbone facebook/dinov2-base --output photos.placedb
        selavpr index walk:day --backbone facebook/dinov2-base --adapter my-city --output walk.placedb
        selavpr index walk:dusk --backbone facebook/dinov2-base --adapter my-city --add-to walk.placedb
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    from selavpr_peft.data.loading import load_database
    from selavpr_peft.data.schema import has_positions
    from selavpr_peft.retrieval import PlaceDatabase

    load = partial(options.load_model, backbone, adapter, dtype=dtype, device=device, seed=seed)
    form = {"local_dtype": local_dtype, "keep_locations": keep_locations, "index_kind": kind}
    given: dict[str, Any] = {name: value for name, value in form.items() if value is not None}
    reading: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "is_strict": strict}
    places = load_database(database)  # a mistake in the places is told before a model is fetched
    if output is not None and add_to is None:
        indexed = PlaceDatabase.build(load(), places, output, **given, **reading)
    elif add_to is not None and output is None:
        if given:
            raise ValueError("--local-dtype, --keep-locations and --kind stay those of the database; leave them out.")
        indexed = PlaceDatabase.open(add_to)
        indexed.add(load(), places, **reading)
    else:
        raise ValueError("Give either --output, the folder of a new database, or --add-to, the database to add to.")
    commit_url = None if push_to is None else indexed.push_to_hub(push_to, image_root=_folder_of(database))
    num_bytes = sum(file.stat().st_size for file in indexed.folder.rglob("*") if file.is_file())
    unreadable = indexed.manifest.unreadable_images
    if json != "-":
        typer.echo(f"{indexed.folder}: {len(indexed)} places, {num_bytes / len(indexed) / 1e6:.2f} MB each")
        if not has_positions(indexed.places):
            typer.echo(f"{database} has no places.csv, so answers name photographs without a position")
        if adapter is None:
            typer.echo("without --adapter an untrained one is used; selavpr train makes one for your places")
        if unreadable:
            typer.echo(f"{len(unreadable)} images could not be read, the first: {unreadable[0]}")
        if commit_url:
            typer.echo(f"pushed to {commit_url}")
    if json is not None:
        write_json(indexed.manifest.model_dump() | {"num_bytes": num_bytes, "commit_url": commit_url}, json)


def _folder_of(location: str) -> Path:
    """Give the folder that DIR, DIR:TRAVERSE or a table lies in, or is."""
    from selavpr_peft.data.place_table import split_location

    path = Path(location)
    return path if path.is_dir() else split_location(location)[0].parent
