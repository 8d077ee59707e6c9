"""Save an adapter so that it can be published: what PEFT writes, and what a stranger needs to load and to judge it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from selavpr_peft.files import naming_full_disk, write_text_atomically
from selavpr_peft.hub.adapter_folder import (
    CALIBRATION_NAME,
    CONFIG_NAME,
    EVALUATION_NAME,
    TRAINING_NAME,
    WEIGHTS_NAME,
    read_adapter_config,
)
from selavpr_peft.hub.backbone_identity import identify_backbone
from selavpr_peft.hub.calibration_file import save_calibration
from selavpr_peft.hub.model_card import write_model_card
from selavpr_peft.hub.preprocessor_file import write_preprocessor
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.calibration import Calibration, calibration_of
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from selavpr_peft.tuner.model import check_adapted


def save_adapter(
    model: PeftModel,
    folder: str | Path,
    *,
    reports: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
    name: str | None = None,
    license_id: str | None = None,
) -> None:
    """Save the active adapter with its preprocessing, the digest of its backbone, its evaluations and a model card.

    The adapter itself is two files and as `model.save_pretrained` writes it. A calibration that the model carries for
    these weights is saved with them.

    Args:
        model: A model with a SelaVPR adapter.
        folder: Where to; files of the same names are replaced.
        reports: Evaluation reports of these very weights, as `selavpr evaluate --json` writes them.
        training: What the adapter was trained on and how, as plain values.
        name: What the card calls it; by default the name of the folder.
        license_id: Licence of the weights in the Hub's spelling.

    Raises:
        ValueError: If a report is of other weights.
    """
    folder = Path(folder)
    record_backbone(model)
    write_adapter(model, folder)
    complete_folder(
        folder,
        reports=reports,
        training=training,
        calibration=calibration_of(model, adapter_fingerprint(model)),
        name=name,
        license_id=license_id,
    )


def record_backbone(model: PeftModel) -> None:
    """Note the digest of the backbone in the settings of the active adapter, to be saved with it.

    Args:
        model: A model with a SelaVPR adapter.

    Raises:
        TypeError: If it has none.
    """
    check_adapted(model)
    model.active_peft_config.backbone_fingerprint = identify_backbone(model)


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write the two files of the active adapter, whatever its name, without PEFT's card.

    Args:
        model: A model with a SelaVPR adapter.
        folder: Where to; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter = model.active_adapter
    with naming_full_disk(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".adapter.") as temporary:
        model.save_pretrained(temporary, selected_adapters=[adapter], save_embedding_layers=False)
        written = Path(temporary) if adapter == "default" else Path(temporary, adapter)
        for file in (CONFIG_NAME, WEIGHTS_NAME):
            (written / file).replace(folder / file)


def complete_folder(
    folder: Path,
    *,
    reports: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    license_id: str | None = None,
) -> bool:
    """Write everything beside the two files of an adapter.

    Args:
        folder: Folder of the adapter.
        reports: As `save_adapter` takes them.
        training: As `save_adapter` takes it.
        calibration: Of these weights.
        name: As `save_adapter` takes it.
        license_id: As `save_adapter` takes it.

    Returns:
        Whether the model card was written; a card that somebody else has written stays.

    Raises:
        ValueError: If a report or the calibration is of other weights.
    """
    is_written = write_model_card(
        folder, reports=reports, training=training, calibration=calibration, name=name, license_id=license_id
    )
    write_preprocessor(folder, Preprocessing.of(read_adapter_config(folder)))
    for file, facts in ((EVALUATION_NAME, list(reports)), (TRAINING_NAME, training)):
        if facts:
            write_text_atomically(folder / file, json.dumps(facts, indent=2) + "\n")
        else:
            (folder / file).unlink(missing_ok=True)  # of weights that were there before
    if calibration is None:
        (folder / CALIBRATION_NAME).unlink(missing_ok=True)
    else:
        save_calibration(calibration, folder)
    return is_written


def read_facts(folder: Path) -> tuple[list[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Read the evaluation reports and the training that were saved with an adapter.

    Args:
        folder: Folder of the adapter.

    Raises:
        ValueError: If a file is damaged.
    """
    found = []
    for name in (EVALUATION_NAME, TRAINING_NAME):
        path = folder / name
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it, or save the adapter again.") from error
    return found[0] or [], found[1]
