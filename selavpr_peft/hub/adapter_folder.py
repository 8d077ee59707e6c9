"""The files of a published adapter, and how they are fetched: from a folder, or from the Hub and its cache."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import safe_open

from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub_access import HubAccess
from selavpr_peft.registration import PEFT_TYPE, PREFIX
from selavpr_peft.tuner.config import SelaConfig

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PREPROCESSOR_NAME = "preprocessor_config.json"
CARD_NAME = "README.md"
EVALUATION_NAME = "evaluation.json"
TRAINING_NAME = "training.json"
CALIBRATION_NAME = "calibration.json"
OF_WEIGHTS = (EVALUATION_NAME, TRAINING_NAME, CALIBRATION_NAME)
"""What is said about weights and must go when others take their place."""
PUBLISHED = (CONFIG_NAME, WEIGHTS_NAME, PREPROCESSOR_NAME, CARD_NAME, *OF_WEIGHTS)
"""All that is pushed or fetched of an adapter: tensors, JSON and the card, never a pickle."""


def fetch_adapter(adapter: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Path:
    """Give the folder that holds an adapter, fetched from the Hub if it is not one on this machine.

    Args:
        adapter: Folder, or Hub id.
        revision: Branch, tag or commit on the Hub.
        token: Access token; None for the one that is logged in.

    Raises:
        HubError: If the Hub does not give it; the message says why and what to do. Without network, what was fetched
            before is taken from the cache.
        CheckpointError: If there is no adapter in it, or only one that is a pickle.
    """
    folder = Path(adapter)
    if not folder.is_dir():
        access = HubAccess(repo_id=str(adapter), revision=revision)
        folder = Path(
            access.ask(
                lambda: snapshot_download(str(adapter), revision=revision, token=token, allow_patterns=list(PUBLISHED))
            )
        )
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{adapter} is no adapter that can be loaded: it has no {name}. Save one with model.save_pretrained,"
                " which writes safetensors; pickled weights are not read."
            )
    return folder


def check_weights(folder: Path) -> None:
    """Raise unless a file of weights holds those of a SelaVPR adapter and nothing else.

    PEFT would go on with random weights where there are none, and let others replace the backbone's.

    Args:
        folder: Folder with its files.

    Raises:
        CheckpointError: If no tensor is one of an adapter's, or some are not.
        SafetensorError: If the file is damaged.
    """
    with safe_open(folder / WEIGHTS_NAME, "pt") as file:
        names = list(file.keys())
    foreign = [name for name in names if f".{PREFIX}" not in name]
    if len(foreign) == len(names):
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} holds no tensor of a SelaVPR adapter, got {names[:3]}; take both files from the"
            " same save."
        )
    if foreign:
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} must hold tensors of a SelaVPR adapter alone, got {foreign[:3]} too, which could"
            " replace weights of the backbone; take one that model.save_pretrained wrote."
        )


def read_adapter_config(folder: Path) -> SelaConfig:
    """Read and check the settings of an adapter.

    Args:
        folder: Folder with its files.

    Raises:
        CheckpointError: If they are not those of a SelaVPR adapter.
        ValueError: If a field is out of range, or the layout is of another release; the message says what to do.
    """
    try:
        content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / CONFIG_NAME} is damaged ({error}); fetch or save the adapter again."
        ) from error
    if not isinstance(content, dict) or content.get("peft_type") != PEFT_TYPE:
        found = content.get("peft_type") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{folder / CONFIG_NAME} must be of a SelaVPR adapter (peft_type {PEFT_TYPE!r}), got {found!r}; load"
            " others with peft."
        )
    return SelaConfig.from_pretrained(str(folder))
