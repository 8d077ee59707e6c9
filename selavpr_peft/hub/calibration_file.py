"""`calibration.json` beside an adapter: how likely its first answers are to be right."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selavpr_peft.errors import CheckpointError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.hub.adapter_facts import AdapterFacts
from selavpr_peft.hub.adapter_folder import CALIBRATION_NAME
from selavpr_peft.retrieval.calibration import Calibration

FORMAT_VERSION = 1
FIELDS = {"adapter": str, "form": dict, "intercept": float, "slope": float, "fitted_on": dict, "quality": dict}


def save_calibration(calibration: Calibration, folder: str | Path) -> None:
    """Write a calibration into the folder of the adapter that it belongs to, in place of an earlier one.

    Args:
        calibration: By `fit_calibration`.
        folder: Folder of the adapter.

    Raises:
        CheckpointError: If there is no adapter.
        ValueError: If it is of other weights.
    """
    folder = Path(folder)
    calibration.check_adapter(AdapterFacts.of(folder).fingerprint)
    content = {"format_version": FORMAT_VERSION, **asdict(calibration)}
    write_text_atomically(folder / CALIBRATION_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_calibration(folder: Path) -> Calibration | None:
    """Read the calibration of an adapter; None where it has none.

    Args:
        folder: Folder of the adapter.

    Raises:
        CheckpointError: If it is damaged or of another version.
    """
    path = folder / CALIBRATION_NAME
    if not path.is_file():
        return None
    remedy = "remove it, and fit it anew with `selavpr calibrate`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); {remedy}.") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} must have the format version {FORMAT_VERSION}, got {version!r}; install the release that wrote"
            f" it, or {remedy}."
        )
    _check_fields(content, path, remedy)
    return Calibration(**content)


def _check_fields(content: dict[str, Any], path: Path, remedy: str) -> None:
    wrong = sorted(set(content) ^ set(FIELDS)) or [
        name for name, kind in FIELDS.items() if not isinstance(content[name], kind)
    ]
    if wrong:
        raise CheckpointError(
            f"{path} must have the fields {', '.join(FIELDS)}; {', '.join(wrong)} is wrong; {remedy}."
        )
    if not (math.isfinite(content["intercept"]) and 0 < content["slope"] < math.inf):
        raise CheckpointError(
            f"{path} must have a finite intercept and a positive slope, got {content['intercept']} and"
            f" {content['slope']}; {remedy}."
        )
