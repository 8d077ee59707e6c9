"""`selavpr query`: tell where photographs were taken."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json

if TYPE_CHECKING:
    from PIL import Image

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
        typer.Option(
            help="Write photographs and their places as a list of image pairs for hloc or COLMAP.",
            callback=options.writable_path,
        ),
    ] = None,
    image_folder: Annotated[
        Path | None,
        typer.Option(help="Folder that names in --pairs are relative to; without it paths and keys as they are."),
    ] = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    strict: options.Strict = False,
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
    for image in images:
        if image.is_dir():
            raise IsADirectoryError(f"{image} is a folder; name the photographs in it, for example {image}/*.jpg.")
    quiet_host_libraries()
    from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

    query_names = _names_in_pairs(images, image_folder) if pairs is not None else {}
    unreadable: dict[Path, str] = {}
    opened = PlaceDatabase.from_pretrained(database)
    recognizer = PlaceRecognizer(options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed), opened)
    found = recognizer.recognize(
        _readable(images, unreadable, is_strict=strict),
        top_k=top_k,
        rerank_num=rerank_num,
        rerank_window=rerank_window,
        num_exact=num_exact,
        near=near,
        radius_m=radius_m,
    )
    images = [image for image in images if image not in unreadable]
    if json != "-":
        typer.echo("\n\n".join(_sentence(image, places) for image, places in zip(images, found, strict=True)))
        differing = recognizer.uncalibrated(rerank_num)
        if differing:
            typer.echo(f"\nno probabilities: the adapter was calibrated with another {' and '.join(differing)}")
        if unreadable:
            typer.echo(f"\n{len(unreadable)} photographs could not be read, the first: {next(iter(unreadable))}")
    if pairs is not None:
        _write_pairs([query_names[image] for image in images], found, pairs, image_folder)
    if json is not None:
        report = {
            "database": database,
            "queries": _as_report(images, found),
            "unreadable_images": list(unreadable.values()),
        }
        write_json(report, json)


def _readable(images: list[Path], unreadable: dict[Path, str], *, is_strict: bool) -> Iterator["Image.Image"]:
    """Read photographs one by one; note those that cannot be read, and raise if that is all of them."""
    from tqdm.auto import tqdm

    from selavpr_peft.errors import UnreadableImageError
    from selavpr_peft.modeling.preprocessing import read_image

    for image in tqdm(images, desc="locating", unit="image", disable=len(images) == 1):
        try:
            yield read_image(image)
        except UnreadableImageError as error:
            unreadable[image] = str(error)
            if is_strict or unreadable.keys() == set(images):
                raise


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


def _names_in_pairs(images: list[Path], image_folder: Path | None) -> dict[Path, str]:
    """Say what photographs are called in a list of pairs."""
    from selavpr_peft.retrieval.image_pairs import name_within

    if image_folder is None:
        return {image: image.as_posix() for image in images}
    return {image: name_within(image, image_folder) for image in images}


def _write_pairs(
    queries: list[str], found: list[list["RecognizedPlace"]], path: Path, image_folder: Path | None
) -> None:
    """Write which places each photograph is to be matched with."""
    from selavpr_peft.retrieval.image_pairs import image_pairs, name_within, write_image_pairs

    def name_of(place: "RecognizedPlace") -> str:
        if image_folder is None:
            return place.key
        if place.image is None:
            raise ValueError(f"The database does not know the image of {place.key}; leave --image-folder out.")
        return name_within(place.image, image_folder)

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
