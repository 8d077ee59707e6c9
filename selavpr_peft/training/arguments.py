"""The settings of a training run, with the official ones as defaults in one place."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

OFFICIAL_RADII_M = {"positive_radius": 10.0, "negative_radius": 25.0, "eval_positive_radius": 25.0}
OFFICIAL_EPOCHS = 50
COUNTS = (
    *("queries_per_round", "queries_per_epoch", "num_negatives", "negative_pool", "rerank_num"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
)
"""Settings that must be at least 1."""


@dataclass(repr=False)  # TrainingArguments' own leaves tokens out
class SelaTrainingArguments(TrainingArguments):
    """Settings of `SelaTrainer`: transformers' TrainingArguments and what mining, losses and evaluation need.

    Defaults are those of the official parser.py and train.py for Pitts30k: Adam with learning rate 1e-5, no schedule,
    no weight decay, no gradient clipping, 4 queries x (1 query + 1 positive + 2 negatives) per step. One Trainer epoch
    is one mining round; an official epoch is `queries_per_epoch / queries_per_round` rounds, after each of which the
    model is evaluated and saved; at most 50 official epochs are run, fewer once re-ranked Recall@5 has not risen for
    `patience` evaluations, and the best model is loaded at the end.

    Raises:
        ValueError: If a number is out of range; the message names field, value and remedy.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate (official: 1e-5)."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay (official: none)."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none (official)."})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Queries per step and device (official: 4)."}
    )
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Images per pass while mining and evaluating."}
    )
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule (official: none)."})
    num_train_epochs: float = field(
        default=-1.0, metadata={"help": "Mining rounds; -1 is 50 x queries_per_epoch / queries_per_round (official)."}
    )
    eval_strategy: str = field(
        default="epoch", metadata={"help": "When to evaluate: epoch is every queries_per_epoch queries (official)."}
    )
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to save: epoch is every queries_per_epoch queries (official)."}
    )
    metric_for_best_model: str | None = field(
        default="reranked_recall@5", metadata={"help": "What the best model is best at (official: re-ranked R@5)."}
    )
    load_best_model_at_end: bool | None = field(
        default=None, metadata={"help": "Load the best model at the end; by default where evaluations are saved."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Go on counting patience where an interrupted run stopped."}
    )
    hub_strategy: str = field(
        default="end",
        metadata={
            "help": "When to push: end is with save_model(), every_save after every checkpoint, too; others would push"
            " pickles and are refused."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: batches are images."})
    optim: str = field(default="adamw_torch", metadata={"help": "Optimiser; AdamW without weight decay is Adam."})

    positive_radius: float | None = field(
        default=None, metadata={"help": "Distance up to which a database image is a positive (official: 10 m)."}
    )
    negative_radius: float | None = field(
        default=None, metadata={"help": "Distance beyond which an image may be a negative (official: 25 m)."}
    )
    eval_positive_radius: float | None = field(
        default=None, metadata={"help": "Distance up to which a place counts as found (official: 25 m)."}
    )
    mining: str = field(
        default="partial", metadata={"help": "How negatives are found: partial, full, random or weighted."}
    )
    queries_per_round: int = field(
        default=1000, metadata={"help": "Queries of a mining round (official cache_refresh_rate: 1000)."}
    )
    queries_per_epoch: int = field(
        default=5000, metadata={"help": "Queries between two evaluations (official: 5000, on MSLS 30000)."}
    )
    num_negatives: int = field(default=2, metadata={"help": "Negatives of every query (official: 2)."})
    negative_pool: int = field(
        default=1000, metadata={"help": "Random database images negatives are chosen from (official: 1000)."}
    )
    global_margin: float = field(default=0.1, metadata={"help": "Margin of the triplet loss (official: 0.1)."})
    local_margin: float = field(default=0.0, metadata={"help": "Margin of the local loss (official: 0)."})
    local_weight: float = field(default=1.0, metadata={"help": "Factor on the local loss (official: 1)."})
    rerank_num: int = field(default=100, metadata={"help": "Candidates re-ranked in an evaluation (paper: 100)."})
    patience: int = field(
        default=3, metadata={"help": "Evaluations without a better result before training stops; 0 never stops."}
    )
    colour_jitter: float = field(
        default=0.0, metadata={"help": "Largest relative change of a query's brightness, contrast and saturation."}
    )
    perspective: float = field(
        default=0.0, metadata={"help": "Largest shift of a query's corners, as a share of its half width and height."}
    )
    random_resized_crop: float = field(
        default=0.0, metadata={"help": "Largest share of a query's area that a random crop may lose."}
    )
    horizontal_flip: float = field(
        default=0.0, metadata={"help": "Probability that all images of a triplet are mirrored."}
    )

    def __post_init__(self) -> None:
        """Check the settings, and derive how long to train and what to load at the end where nothing is said."""
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.eval_strategy == self.save_strategy != "no"
        super().__post_init__()
        self._check()
        if self.num_train_epochs <= 0:
            self.num_train_epochs = float(OFFICIAL_EPOCHS * self.rounds_per_evaluation)
        if self.gradient_checkpointing:  # transformers 4 chooses the reentrant kind, which loses adapters' gradients
            self.gradient_checkpointing_kwargs: Any = self.gradient_checkpointing_kwargs or {"use_reentrant": False}

    def _check(self) -> None:
        if not self.learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0, got {self.learning_rate}; official is 1e-5.")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("colour_jitter", "perspective", "random_resized_crop", "horizontal_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}; 0 switches it off.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: a batch holds images, not columns of a table.")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}; 0 never stops.")
        if self.push_to_hub and self.hub_strategy not in {HubStrategy.END, HubStrategy.EVERY_SAVE}:
            raise ValueError(
                f"hub_strategy must be 'end' or 'every_save', got {HubStrategy(self.hub_strategy).value!r}: a"
                " checkpoint's states of optimiser and random numbers are pickles, which are not published."
            )

    @property
    def rounds_per_evaluation(self) -> int:
        """Mining rounds of an official epoch."""
        return max(1, self.queries_per_epoch // self.queries_per_round)

    def radius(self, name: str, unit: str) -> float:
        """Give a radius; by default the official one, which holds for metres only.

        Args:
            name: "positive_radius", "negative_radius" or "eval_positive_radius".
            unit: Unit of the places, "m" or "frames".

        Raises:
            ValueError: If none was set and places have frame numbers.
        """
        value = getattr(self, name)
        if value is not None:
            return float(value)
        if unit != "m":
            raise ValueError(
                f"{name} must be given for places with frame numbers: the official {OFFICIAL_RADII_M[name]:g} is in"
                " metres."
            )
        return OFFICIAL_RADII_M[name]
