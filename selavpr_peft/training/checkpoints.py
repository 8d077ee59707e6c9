"""What a training checkpoint holds beside transformers' own files, and when it counts as complete.

The mining state is written last and at once. A checkpoint without it was interrupted while it was written; it is
passed over when training resumes.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from selavpr_peft.data.schema import KEY, positions
from selavpr_peft.files import write_text_atomically
from selavpr_peft.training.arguments import SelaTrainingArguments
from selavpr_peft.training.places import TrainingPlaces
from selavpr_peft.tuner.config import SelaConfig

STATE_NAME = "mining_state.json"

CONTINUED = (
    *("seed", "positive_radius", "negative_radius", "mining", "queries_per_round", "num_negatives", "negative_pool"),
    *("global_margin", "local_margin", "local_weight"),
    *("colour_jitter", "perspective", "random_resized_crop", "horizontal_flip"),
    *("learning_rate", "lr_scheduler_type", "optim", "weight_decay", "max_grad_norm", "bf16", "fp16"),
    *("adam_beta1", "adam_beta2", "adam_epsilon"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
)
"""Settings that an interrupted run must be continued with; it may be made longer."""

MAY_DIFFER = (
    "base_model_name_or_path",
    "backbone_fingerprint",
    "inference_mode",
    "auto_mapping",
    "peft_version",
)
"""Fields of an adapter's settings that may differ when a run goes on."""


def mark_incomplete(folder: Path) -> None:
    """Mark a checkpoint as incomplete before it is written, also where an older one of that name stands.

    Args:
        folder: Folder of the checkpoint; need not exist.
    """
    (folder / STATE_NAME).unlink(missing_ok=True)


def write_mining_state(folder: Path, state: dict[str, Any]) -> None:
    """Complete a checkpoint.

    Args:
        folder: Folder of the checkpoint, everything else already in it.
        state: What mining must know to go on, as plain numbers.
    """
    write_text_atomically(folder / STATE_NAME, json.dumps(state))


def read_mining_state(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Read the mining state of a checkpoint.

    Args:
        folder: Folder of the checkpoint.
        fingerprint: Of the settings and data of this run.

    Raises:
        ValueError: If the checkpoint is incomplete, of a run with other settings or other data, or of a model only.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder} is no complete checkpoint of SelaTrainer: it has no {STATE_NAME}. Resume from another one, or"
            " with resume_from_checkpoint=True from the last complete one."
        )
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"The checkpoint {folder} is of a run with other places, mining or adapter settings; going on would not"
            " continue it. Use the same data and settings, or another output_dir."
        )
    if state.get("is_model_only"):
        raise ValueError(
            f"The checkpoint {folder} was saved with save_only_model and holds no state of the optimiser; a run cannot"
            " be continued from it. Train a new run from its adapter, or save without save_only_model."
        )
    return state


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first.

    Args:
        output_dir: The run's folder.
    """
    steps = {path: path.name.removeprefix("checkpoint-") for path in output_dir.glob("checkpoint-*")}
    found = [path for path, step in steps.items() if step.isdecimal() and (path / STATE_NAME).is_file()]
    return sorted(found, key=lambda path: int(steps[path]))


def delete_old_checkpoints(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Delete all but the newest complete checkpoints; the best one stays, and the newest always does.

    Args:
        output_dir: The run's folder.
        limit: Number to keep; None keeps all.
        best: Folder of the best checkpoint so far.
    """
    if limit is None or limit < 1:
        return
    complete = complete_checkpoints(output_dir)
    kept = {*complete[-1:], *(path for path in complete if best and path.resolve() == Path(best).resolve())}
    for path in reversed(complete):
        if path in kept:
            continue
        if len(kept) < limit:
            kept.add(path)
            continue
        mark_incomplete(path)  # first, so that half a folder never looks complete
        shutil.rmtree(path, ignore_errors=True)


def continued_settings(
    args: SelaTrainingArguments, config: SelaConfig, query_weights: np.ndarray | None
) -> dict[str, Any]:
    """Collect the settings that must not change between an interruption and its continuation.

    Args:
        args: Settings of the run.
        config: Settings of the adapter.
        query_weights: How often each query is wanted, where queries are weighted.
    """
    adapter = {name: value for name, value in config.to_dict().items() if name not in MAY_DIFFER}
    weights = None if query_weights is None else query_weights.tolist()
    return {name: getattr(args, name) for name in CONTINUED} | {"adapter": adapter, "weights": weights}


def fingerprint_of(places: TrainingPlaces, settings: dict[str, Any]) -> str:
    """Identify data and settings on which the course of a run depends.

    Args:
        places: Training places.
        settings: Everything else that matters, as plain values.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for split in (places.queries, places.database):
        digest.update("\n".join(split[KEY][:]).encode())
        digest.update(np.ascontiguousarray(positions(split)).tobytes())
    for lists in (places.positives, places.near):
        digest.update(np.concatenate([np.append(rows, -1) for rows in lists]).tobytes())
    return digest.hexdigest()
