"""`selavpr query`: tell where photographs were taken."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json

if TYPE_CHECKING:
    from selavpr_peft.retrieval import RecognizedPlace


def query(
    database: Annotated[str, typer.Argument(help="Place database by `selavpr index`: folder or Hub id.")],
    images: Annotated[list[Path], typer.Argument(help="Photographs to locate.")],
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    top_k: Annotated[int, typer.Option(help="Places listed for each photograph.", min=1)] = 5,
    rerank_num: Annotated[int, typer.Option(help="Candidates re-ranked by local features; 0 for none.", min=0)] = 100,
    rerank_window: Annotated[
        float | None,
        typer.Option(help="Re-rank only candidates whose similarity lies within this of the best one's.", min=0),
    ] = None,
    near: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Look around this latitude and longitude only.", metavar="LAT LON"),
    ] = None,
    radius_m: Annotated[float | None, typer.Option(help="How far around --near, in metres.", min=0)] = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    r"""Locate photographs in a place database, best places first.

    Example:
        selavpr query walk.placedb photo.jpg --backbone facebook/dinov2-base --adapter my-city
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

    opened = PlaceDatabase.from_pretrained(database)
    recognizer = PlaceRecognizer(options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed), opened)
    found = recognizer.recognize(
        images, top_k=top_k, rerank_num=rerank_num, rerank_window=rerank_window, near=near, radius_m=radius_m
    )
    if json != "-":
        typer.echo("\n\n".join(_sentence(image, places) for image, places in zip(images, found, strict=True)))
    if json is not None:
        write_json({"database": database, "queries": _as_report(images, found)}, json)


def _sentence(image: Path, places: list["RecognizedPlace"]) -> str:
    """Say where a photograph was taken, then list the other candidates."""
    if not places:
        return f"{image}: no place is near enough to be considered."
    best = places[0]
    lines = [f"{image} shows the place of {best.key}{_position(best)}{_evidence(best)}."]
    lines += [f"  {rank}. {place.key}{_position(place)}{_evidence(place)}" for rank, place in enumerate(places[1:], 2)]
    return "\n".join(lines)


def _position(place: "RecognizedPlace") -> str:
    values = ", ".join(f"{name} {value:.7g}" for name, value in place.coordinates.items())
    return f" ({values})" if values else ""


def _evidence(place: "RecognizedPlace") -> str:
    matches = "" if place.num_matches is None else f"{place.num_matches} matches, "
    return f": {matches}similarity {place.score:.3f}"


def _as_report(images: list[Path], found: list[list["RecognizedPlace"]]) -> list[dict[str, Any]]:
    return [
        {
            "image": str(image),
            "places": [
                {
                    "key": place.key,
                    "image": place.image,
                    "score": place.score,
                    "num_matches": place.num_matches,
                    **{name: _plain(value) for name, value in place.columns.items()},
                }
                for place in places
            ],
        }
        for image, places in zip(images, found, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Turn what JSON has no form for, such as a time, into text."""
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
