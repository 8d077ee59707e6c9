"""What a trainer knows of its run, as plain values for the model card and for repeating it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerState

from selavpr_peft.evaluation.protocol import ADAPTER_DIGEST, model_protocol
from selavpr_peft.hub.card_figures import Report
from selavpr_peft.hub.saving import read_facts
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from selavpr_peft.training.arguments import SelaTrainingArguments
from selavpr_peft.training.places import TrainingPlaces

REPORTED = (
    *("learning_rate", "lr_scheduler_type", "optim", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("mining", "positive_radius", "negative_radius", "queries_per_round", "num_negatives", "negative_pool"),
    *("global_margin", "local_margin", "local_weight"),
    *("colour_jitter", "perspective", "random_resized_crop", "horizontal_flip", "bf16", "fp16", "seed"),
)
"""Settings that the model card lists."""


@dataclass(frozen=True, kw_only=True)
class PlaceNames:
    """What places are called, without the path to them.

    Args:
        train: Those trained on.
        evaluation: Those evaluated on.
    """

    train: str
    evaluation: str

    @classmethod
    def of(
        cls, train: Any, evaluation: Any, train_frames: str | None = None, eval_frames: str | None = None
    ) -> "PlaceNames":
        """Take the names of their folders.

        Args:
            train: Anything `load_places` takes.
            evaluation: The same, or None.
            train_frames: Frames that were taken of the first, as A-B; None for all.
            eval_frames: The same for the second.
        """
        return cls(train=_name_of(train, train_frames), evaluation=_name_of(evaluation, eval_frames))


def training_facts(
    args: SelaTrainingArguments, state: TrainerState, places: TrainingPlaces, names: PlaceNames
) -> dict[str, Any]:
    """Say what was trained on and how.

    Args:
        args: Settings of the run.
        state: Progress of the run.
        places: What is trained on.
        names: What it is called.
    """
    counted = {
        "training_places": names.train,
        "training_queries": len(places.query_rows),
        "training_database_images": len(places.database),
        "steps": state.global_step,
        "rounds": round(state.epoch or 0.0, 2),
    }
    settings = {name: getattr(args, name) for name in REPORTED}
    return counted | {name: getattr(value, "value", value) for name, value in settings.items()}


def evaluation_protocol(
    model: PeftModel, args: SelaTrainingArguments, *, places: str, positive_radius: float
) -> dict[str, Any]:
    """Say what must be known to repeat an evaluation while training, under the names of `selavpr evaluate`.

    Args:
        model: The model as it is evaluated.
        args: Settings of the run.
        places: Name of the places evaluated on.
        positive_radius: Distance up to which a place counts as found.
    """
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    return {
        "database": places,
        "queries": places,
        "positive_radius": positive_radius,
        "rerank_num": args.rerank_num,
        "dtype": autocast or str(next(model.parameters()).dtype).removeprefix("torch."),
        **model_protocol(model, model.active_peft_config.base_model_name_or_path),
    }


def reports_of_weights(model: PeftModel, reports: Mapping[str, Report], best_checkpoint: Path | None) -> list[Report]:
    """Find the evaluation of a model's weights as they are: in this run, or saved with its best checkpoint.

    Args:
        model: The model.
        reports: Reports of this run, by the digest of the weights.
        best_checkpoint: Where the best checkpoint keeps its adapter; None without one.
    """
    digest = adapter_fingerprint(model)
    if digest in reports:
        return [reports[digest]]
    saved = read_facts(best_checkpoint)[0] if best_checkpoint else []
    return [report for report in saved if report["protocol"].get(ADAPTER_DIGEST) == digest]


def _name_of(places: Any, frames: str | None) -> str:
    name = Path(places).resolve().name if isinstance(places, str | Path) else "places in memory"
    return f"{name}, frames {frames}" if frames else name
