"""Options that several commands share, with the same words everywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from selavpr_peft.files import check_writable

if TYPE_CHECKING:
    from peft import PeftModel

PathOrNone = TypeVar("PathOrNone", bound=str | Path | None)


def writable_path(path: PathOrNone) -> PathOrNone:
    """Give a path back if a file can be written there: the callback of options that name one, run before any work.

    Args:
        path: As given by the user; None, or "-" for standard output, is no file.

    Raises:
        typer.BadParameter: If a file cannot be written there.
    """
    if path is not None and path != "-":
        try:
            check_writable(Path(path))
        except OSError as error:
            raise typer.BadParameter(str(error)) from error
    return path


Backbone = Annotated[str, typer.Option(help="Hub id or folder of the frozen backbone.", show_default=False)]
Adapter = Annotated[
    str | None,
    typer.Option(help="Hub id or folder of an adapter; without it the frozen backbone with a fresh one is used."),
]
_PLACES = typer.Option(
    metavar="DIR[:TRAVERSE]",
    help="Folder with places.csv, and the traverse to take from it, or a folder of images with @utm@ names.",
    show_default=False,
)
Places = Annotated[str, _PLACES]
OptionalPlaces = Annotated[str | None, _PLACES]
_POSITIVE_RADIUS = typer.Option(
    help="Distance up to which a database image shows the query's place, in metres or frames.", min=0
)
PositiveRadius = Annotated[float, _POSITIVE_RADIUS]
OptionalPositiveRadius = Annotated[float | None, _POSITIVE_RADIUS]
RerankNum = Annotated[int, typer.Option(help="Candidates that are re-ranked by local features (paper: 100).", min=1)]
RerankNumOrNone = Annotated[int, typer.Option(help="Candidates re-ranked by local features; 0 for none.", min=0)]
PlaceDatabase = Annotated[str, typer.Argument(help="Place database by `selavpr index`: folder or Hub id.")]
Frames = Annotated[str | None, typer.Option(help="Take only frames A-B, both included.", metavar="A-B")]
DType = Annotated[str, typer.Option(help="Type of the backbone's weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Device, for example cpu or cuda; auto takes a GPU where there is one.")]
Seed = Annotated[int, typer.Option(help="Seed of a fresh adapter.")]
BatchSize = Annotated[int, typer.Option(help="Images per forward pass.", min=1)]
NumWorkers = Annotated[int, typer.Option(help="Processes that decode images.", min=0)]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read, instead of naming it.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        help="Write the results to this file; - is standard output.",
        metavar="PATH",
        callback=writable_path,
    ),
]
LocalDType = Annotated[str, typer.Option(help="Form of the local features: float32, float16, int8 or binary.")]
KeepLocations = Annotated[
    int | None, typer.Option(help="Local features kept of every image, at most; by default all.", min=1)
]
Picture = Annotated[
    Path, typer.Option("--output", help="PNG file to write.", metavar="FILE.png", callback=writable_path)
]
DotsPerInch = Annotated[int, typer.Option(help="Resolution of the picture.", min=30, max=1200)]
DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(name: str) -> None:
    """Raise if a type's name is not one of those offered.

    Args:
        name: As given by the user.

    Raises:
        ValueError: Naming the choices.
    """
    if name not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {name!r}.")


def pick_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there before anything is loaded.

    Args:
        name: As given by the user.

    Raises:
        ValueError: If PyTorch does not know or have the device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # "meta" exists but has no numbers
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def load_model(backbone: str, adapter: str | None, *, dtype: str, device: str, seed: int) -> "PeftModel":
    """Load the model that the options of these names describe, on its device.

    Args:
        backbone: Hub id or folder.
        adapter: Hub id or folder; None for a fresh one.
        dtype: One of DTYPES.
        device: As given by the user; checked before anything is loaded.
        seed: Seed of a fresh adapter.

    Raises:
        ValueError: If the device cannot be used.
    """
    import torch

    from selavpr_peft.hub.loading import load_adapted_model

    place = pick_device(device)
    return load_adapted_model(backbone, adapter, dtype=getattr(torch, dtype), seed=seed).to(place)
