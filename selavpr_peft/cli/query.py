"""`selavpr query`: tell where photographs were taken."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json

if TYPE_CHECKING:
    from selavpr_peft.retrieval import RecognizedPlace


def query(
    database: options.PlaceDatabase,
    images: Annotated[list[Path], typer.Argument(help="Photographs to locate.")],
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    top_k: Annotated[int, typer.Option(help="Places listed for each photograph.", min=1)] = 5,
    rerank_num: options.RerankNumOrNone = 100,
    rerank_window: Annotated[
        float | None,
        typer.Option(help="Re-rank only candidates whose similarity lies within this of the best one's.", min=0),
    ] = None,
    num_exact: Annotated[
        int | None,
        typer.Option(help="Re-rank in two passes, this many of the best exactly in the second; faster.", min=1),
    ] = None,
    near: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Look around this latitude and longitude only.", metavar="LAT LON"),
    ] = None,
    radius_m: Annotated[float | None, typer.Option(help="How far around --near, in metres.", min=0)] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Write photographs and their places as a list of image pairs for hloc or COLMAP."),
    ] = None,
    image_folder: Annotated[
        Path | None,
        typer.Option(help="Folder that names in --pairs are relative to; without it paths and keys as they are."),
    ] = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    r"""Locate photographs in a place database, best places first.

    With --pairs, hloc (as its retrieval pairs) and COLMAP (matches_importer --match_list_path) go on to camera poses.

    Example:
        selavpr query walk.placedb photo.jpg --backbone facebook/dinov2-base --adapter my-city
        selavpr query walk.placedb walk/night/*.jpg --backbone facebook/dinov2-base --adapter my-city \
            --top-k 20 --pairs pairs.txt --image-folder walk
    """
    options.check_dtype(dtype)
    if image_folder is not None and pairs is None:
        raise ValueError("--image-folder is for the names in --pairs, which is not given.")
    quiet_host_libraries()
    from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

    opened = PlaceDatabase.from_pretrained(database)
    recognizer = PlaceRecognizer(options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed), opened)
    found = recognizer.recognize(
        images,
        top_k=top_k,
        rerank_num=rerank_num,
        rerank_window=rerank_window,
        num_exact=num_exact,
        near=near,
        radius_m=radius_m,
    )
    if json != "-":
        typer.echo("\n\n".join(_sentence(image, places) for image, places in zip(images, found, strict=True)))
        differing = recognizer.uncalibrated(rerank_num)
        if differing:
            typer.echo(f"\nno probabilities: the adapter was calibrated with another {' and '.join(differing)}")
    if pairs is not None:
        _write_pairs(images, found, pairs, image_folder)
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
    values = ", ".join(f"{name} {value:.9g}" for name, value in place.coordinates.items())
    return f" ({values})" if values else ""


def _evidence(place: "RecognizedPlace") -> str:
    matches = "" if place.num_matches is None else f"{place.num_matches} matches, "
    probability = "" if place.probability is None else f", right with a probability of {place.probability:.2f}"
    return f": {matches}similarity {place.score:.3f}{probability}"


def _write_pairs(
    images: list[Path], found: list[list["RecognizedPlace"]], path: Path, image_folder: Path | None
) -> None:
    """Write which places each photograph is to be matched with."""
    from selavpr_peft.retrieval.image_pairs import image_pairs, name_within, write_image_pairs

    def name_of(place: "RecognizedPlace") -> str:
        if image_folder is None:
            return place.key
        if place.image is None:
            raise ValueError(f"The database does not know the image of {place.key}; leave --image-folder out.")
        return name_within(place.image, image_folder)

    queries = [image.as_posix() if image_folder is None else name_within(image, image_folder) for image in images]
    write_image_pairs(image_pairs(queries, [[name_of(place) for place in places] for places in found]), path)


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
                    "probability": place.probability,
                    **{name: _plain(value) for name, value in place.columns.items()},
                }
                for place in places
            ],
        }
        for image, places in zip(images, found, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Turn what JSON has no form for into text, such as a time; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
