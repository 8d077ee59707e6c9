"""`selavpr calibrate`: fit how likely a first answer is to be right."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json
from selavpr_peft.files import check_writable

if TYPE_CHECKING:
    from selavpr_peft.retrieval.calibration import Calibration


def calibrate(
    database: options.PlaceDatabase,
    queries: options.Places,
    positive_radius: options.PositiveRadius,
    backbone: options.Backbone,
    adapter: Annotated[Path, typer.Option(help="Folder of the adapter; receives calibration.json.", metavar="FOLDER")],
    rerank_num: options.RerankNumOrNone = 100,
    query_frames: options.Frames = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 16,
    json: options.Json = None,
) -> None:
    r"""Fit the probability that the first answer is right, and keep it with the adapter.

    Queries are located as `selavpr query` would do it, and compared with where they were taken. They should be like
    those to come: of several times of day and seasons, and places that the database does not have among them.

    Example:
        selavpr calibrate walk.placedb --queries walk:night --positive-radius 3 \
            --backbone facebook/dinov2-base --adapter my-city
    """
    options.check_dtype(dtype)
    if not adapter.is_dir():
        raise NotADirectoryError(f"--adapter must be a folder, to keep the calibration in, got {adapter}.")
    kept = adapter / "calibration.json"
    check_writable(kept)
    quiet_host_libraries()
    from selavpr_peft.data.loading import QUERIES, load_located
    from selavpr_peft.data.place_table import parse_frames
    from selavpr_peft.evaluation.calibration import fit_calibration
    from selavpr_peft.hub.calibration_file import save_calibration
    from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

    query_places = load_located(queries, QUERIES, frames=parse_frames(query_frames))
    opened = PlaceDatabase.from_pretrained(database)
    model = options.load_model(backbone, str(adapter), dtype=dtype, device=device, seed=0)
    frames = f", frames {query_frames}," if query_frames else ""
    database_name = Path(database).resolve().name if Path(database).is_dir() else database
    calibration = fit_calibration(
        PlaceRecognizer(model, opened),
        query_places,
        positive_radius=positive_radius,
        rerank_num=rerank_num,
        batch_size=batch_size,
        data=f"{Path(queries).name}{frames} in {database_name}",
    )
    is_stated = save_calibration(calibration, adapter)
    if json != "-":
        typer.echo(_summary(calibration))
        typer.echo(f"kept in {kept}{', stated in its README.md' if is_stated else ''}")
    if json is not None:
        write_json(asdict(calibration), json)


def _summary(calibration: "Calibration") -> str:
    """Say what was fitted on, and how good the probabilities are on queries left out of the fit."""
    fitted_on, quality = calibration.fitted_on, calibration.quality
    threshold = quality["threshold"]
    return "\n".join(
        (
            f"queries    {fitted_on['num_right']} of {fitted_on['num_queries']} were right within"
            f" {fitted_on['positive_radius']:g} {fitted_on['radius_unit']}",
            f"quality    Brier score {quality['brier_score']:.3f} ({quality['brier_score_of_share']:.3f} for always"
            f" saying the share), expected calibration error {quality['expected_calibration_error']:.3f}",
            "threshold  "
            + (
                f"none keeps {quality['precision']:.0%} of the answers given right"
                if threshold is None
                else f"{threshold['probability']:.3f}: {threshold['num_answered']} queries are answered,"
                f" {threshold['num_right']} of them rightly (a share of {threshold['precision_at_least']:.3f} or more"
                " with 95 % confidence)"
            ),
        )
    )
