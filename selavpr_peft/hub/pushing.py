"""Publish an adapter's folder on the Hub: its files, a card written from facts, and nothing else."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from selavpr_peft.files import write_text_atomically
from selavpr_peft.hub.adapter_folder import (
    CONFIG_NAME,
    OF_WEIGHTS,
    PUBLISHED,
    fetch_adapter,
    read_adapter_config,
)
from selavpr_peft.hub.backbone_identity import identify_backbone
from selavpr_peft.hub.calibration_file import read_calibration
from selavpr_peft.hub.loading import load
from selavpr_peft.hub.model_card import hub_id
from selavpr_peft.hub.saving import complete_folder, read_facts
from selavpr_peft.hub_access import HubAccess


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was published.

    Args:
        url: Address of the commit.
        backbone: Hub id of the backbone; None if whoever loads the adapter has to name it.
        is_card_ours: False where a card that somebody else has written was kept.
        num_bytes: Size of all files.
    """

    url: str
    backbone: str | None
    is_card_ours: bool
    num_bytes: int


def push_adapter(
    adapter: str | Path,
    repo_id: str,
    *,
    reports: Sequence[Mapping[str, Any]] | None = None,
    backbone: str | None = None,
    license_id: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = "Upload adapter",
) -> Publication:
    """Publish a saved adapter; its folder stays as it is.

    An interrupted push is repeated by the same call: weights that arrived are not sent again. The commit comes last,
    so that nobody ever loads half of an adapter.

    Args:
        adapter: Folder of the adapter.
        repo_id: Hub id; the repository is made if there is none.
        reports: Evaluation reports of these weights, for the card; None for those saved with the adapter.
        backbone: Hub id of the backbone, where the adapter does not name it so; it is loaded and its digest recorded.
        license_id: Licence of the weights in the Hub's spelling, such as apache-2.0.
        private: Make a new repository private.
        revision: Branch to commit to, made if there is none; None for main.
        token: Access token; None for the one that is logged in.
        message: Of the commit.

    Raises:
        HubError: If the Hub refuses or cannot be reached; the message says why and what to do.
        CheckpointError: If there is no adapter in the folder.
        BackboneMismatchError: If `backbone` is not the one that the adapter was trained on.
        ValueError: If a report or the calibration is of other weights.
    """
    folder = Path(adapter)
    if not folder.is_dir():
        raise NotADirectoryError(f"{adapter} must be the folder of a saved adapter, and there is no such folder.")
    fetch_adapter(folder)
    with tempfile.TemporaryDirectory(prefix="selavpr-push-") as temporary:
        stage = Path(temporary)
        for name in PUBLISHED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, stage / name)
        base = _name_backbone(stage, backbone)
        saved_reports, training = read_facts(folder)
        is_card_ours = complete_folder(
            stage,
            reports=saved_reports if reports is None else reports,
            training=training,
            calibration=read_calibration(folder),
            name=repo_id,
            license_id=license_id,
        )
        url = _upload(stage, repo_id, private=private, revision=revision, token=token, message=message)
        num_bytes = sum(file.stat().st_size for file in stage.iterdir())
    return Publication(url=url, backbone=base, is_card_ours=is_card_ours, num_bytes=num_bytes)


def _name_backbone(stage: Path, backbone: str | None) -> str | None:
    """Let the settings name the backbone by its Hub id, or not at all: a path of this machine helps nobody."""
    config = read_adapter_config(stage)
    digest = config.backbone_fingerprint
    if backbone is not None:
        digest = identify_backbone(load(stage, backbone=backbone))
    base = hub_id(config.base_model_name_or_path if backbone is None else backbone)
    content = json.loads((stage / CONFIG_NAME).read_text(encoding="utf-8"))
    content |= {"base_model_name_or_path": base, "backbone_fingerprint": digest}
    write_text_atomically(stage / CONFIG_NAME, json.dumps(content, indent=2, sort_keys=True))
    return base


def _upload(
    stage: Path, repo_id: str, *, private: bool | None, revision: str | None, token: str | bool | None, message: str
) -> str:
    api = HfApi(token=token)
    access = HubAccess(repo_id=repo_id, revision=revision)
    access.make_repository(api, private=private)
    commit = access.ask(
        lambda: api.upload_folder(
            repo_id=repo_id,
            folder_path=stage,
            revision=revision,
            commit_message=message,
            allow_patterns=list(PUBLISHED),
            delete_patterns=list(OF_WEIGHTS),  # of weights that were there before
        )
    )
    return str(commit.commit_url)
