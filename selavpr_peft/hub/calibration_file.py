"""`calibration.json` beside an adapter: how likely its first answers are to be right."""

import json
import reprlib
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from selavpr_peft.errors import CheckpointError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.hub.adapter_facts import AdapterFacts
from selavpr_peft.hub.adapter_folder import CALIBRATION_NAME
from selavpr_peft.hub.calibration_schema import CalibrationFile
from selavpr_peft.hub.model_card import state_calibration
from selavpr_peft.retrieval.calibration import Calibration
from selavpr_peft.validation import explain

FORMAT_VERSION = 1
MAX_BYTES = 100_000
"""Of a file that is read; it takes about 1500."""


def save_calibration(calibration: Calibration, folder: str | Path) -> bool:
    """Write a calibration into the folder of the adapter that it belongs to, in place of an earlier one.

    The adapter's model card states it from then on, unless somebody else has written that.

    Args:
        calibration: By `fit_calibration`.
        folder: Folder of the adapter.

    Returns:
        Whether the card states it.

    Raises:
        CheckpointError: If there is no adapter.
        ValueError: If it is of other weights, or could not be read again; the message says which value is wrong.
    """
    folder = Path(folder)
    calibration.check_adapter(AdapterFacts.of(folder).fingerprint)
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(calibration)}, indent=2)
    try:
        CalibrationFile.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"A calibration that is kept must be complete: {explain(error)}.") from None
    write_text_atomically(folder / CALIBRATION_NAME, text + "\n")
    return state_calibration(folder, calibration)


def read_calibration(folder: Path) -> Calibration | None:
    """Read the calibration of an adapter; None where it has none.

    Args:
        folder: Folder of the adapter.

    Raises:
        CheckpointError: If it is damaged, of another version, or says what no calibration can.
    """
    path = folder / CALIBRATION_NAME
    if not path.is_file():
        return None
    remedy = "remove it, and fit it anew with `selavpr calibrate`"
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(
            f"{path} must have at most {MAX_BYTES} bytes, got {path.stat().st_size}: it is no calibration; {remedy}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("format_version")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); {remedy}.") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} must have the format version {FORMAT_VERSION}, got {reprlib.repr(version)}; install the release"
            f" that wrote it, or {remedy}."
        )
    try:
        content = CalibrationFile.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be used: {explain(error)}; {remedy}.") from None
    return Calibration(**content.model_dump(mode="json", exclude={"format_version"}))
