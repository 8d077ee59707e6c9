"""transformers' Trainer for place recognition: one epoch is a mining round, evaluation is two-stage Recall@N."""

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainerControl
from transformers.trainer_utils import IntervalStrategy, speed_metrics

from selavpr_peft.data.loading import DATABASE, QUERIES, load_places
from selavpr_peft.data.schema import radius_unit
from selavpr_peft.evaluation.evaluator import evaluate_two_stage
from selavpr_peft.evaluation.protocol import ADAPTER_DIGEST
from selavpr_peft.files import naming_full_disk
from selavpr_peft.hub.adapter_folder import read_adapter_config
from selavpr_peft.hub.backbone_identity import check_backbone
from selavpr_peft.hub.card_figures import Report
from selavpr_peft.hub.saving import record_backbone
from selavpr_peft.losses import SelaLoss
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.training import checkpoints
from selavpr_peft.training.adapter_trainer import AdapterTrainer
from selavpr_peft.training.arguments import SelaTrainingArguments
from selavpr_peft.training.augmentation import Augmentation
from selavpr_peft.training.facts import PlaceNames, evaluation_protocol, reports_of_weights, training_facts
from selavpr_peft.training.images import TripletDataset, collate_triplets
from selavpr_peft.training.mining import (
    MiningSettings,
    NegativeCache,
    check_minable,
    choose_triplets,
    plan_round,
    round_size,
)
from selavpr_peft.training.mining_pass import describe_round, evaluation_mode
from selavpr_peft.training.official_epochs import EvaluateAfterOfficialEpochs
from selavpr_peft.training.places import training_places
from selavpr_peft.training.query_weights import weigh_queries
from selavpr_peft.training.sampler import MinedBatchSampler
from selavpr_peft.tuner.model import check_adapted


class SelaTrainer(AdapterTrainer):
    """Train the active adapter of a SelaVPR model on mined triplets.

    Everything that `transformers.Trainer` does it does too: mixed precision, gradient accumulation and checkpointing,
    several processes, logging, saving and pushing.

    Args:
        model: A PEFT model with a SelaVPR adapter.
        args: Settings; the defaults are the official ones.
        train_places: Anything `load_places` takes.
        eval_places: The same, to evaluate on; None trains without evaluating.
        query_weights: For `mining="weighted"`: how often each query is wanted; one number per row of the queries. By
            default by the rule of MSLS, from the column `note`.
        **kwargs: Further arguments of `transformers.Trainer`.

    Raises:
        TypeError: If the model has no SelaVPR adapter, or the settings are those of another trainer.
        ValueError: Before the first step, if data and settings do not go together.
    """

    args: SelaTrainingArguments
    control: TrainerControl
    loss_is_scaled_for_ga = False  # a mean per batch: Trainer divides it when it accumulates gradients

    def __init__(
        self,
        model: PeftModel,
        args: SelaTrainingArguments,
        *,
        train_places: Any,
        eval_places: Any | None = None,
        query_weights: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        """Validate data and settings, and set up Trainer."""
        check_adapted(model)
        _check_trainable(model)
        if not isinstance(args, SelaTrainingArguments):
            raise TypeError(f"args must be SelaTrainingArguments, got {type(args).__name__}; it has the same fields.")
        record_backbone(model)
        args = copy.copy(args)
        if eval_places is None:
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        splits = load_places(train_places)
        unit = radius_unit(splits[DATABASE])
        self.places = training_places(
            splits,
            positive_radius=args.radius("positive_radius", unit),
            negative_radius=args.radius("negative_radius", unit),
        )
        self.eval_splits = _evaluation_splits(args, eval_places)
        self.place_names = PlaceNames.of(train_places, eval_places)
        self.reports: dict[str, Report] = {}
        self.mining = MiningSettings(
            mode=args.mining,
            queries_per_round=args.queries_per_round,
            num_negatives=args.num_negatives,
            negative_pool=args.negative_pool,
            query_weights=weigh_queries(args.mining, query_weights, splits[QUERIES], self.places),
        )
        check_minable(self.places, self.mining)
        self.preprocessing = Preprocessing.of(model.active_peft_config)
        self.loss = SelaLoss(args.global_margin, args.local_margin, args.local_weight)
        self.negative_cache = NegativeCache()
        self.sampler: MinedBatchSampler | None = None
        self._loss_parts: list[tuple[Tensor, Tensor]] = []
        super().__init__(
            model=model,
            args=args,
            data_collator=collate_triplets,
            train_dataset=self._triplet_dataset(args),
            eval_dataset=None if self.eval_splits is None else self.eval_splits[QUERIES],
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # the same, for transformers 4
        self.add_callback(EvaluateAfterOfficialEpochs)
        if args.patience and self.eval_splits is not None and args.eval_strategy != "no":
            self.add_callback(EarlyStoppingCallback(args.patience))
        self._check_round()

    def _check_round(self) -> None:
        batch_size = self.args.per_device_train_batch_size
        num_triplets = round_size(self.places, self.mining)
        if num_triplets < batch_size * self.accelerator.num_processes:
            raise ValueError(
                f"A step takes {batch_size} queries on each of {self.accelerator.num_processes} processes, but a round"
                f" has {num_triplets}; lower per_device_train_batch_size or add places with positives."
            )

    # Training

    def get_train_dataloader(self) -> DataLoader:
        """Give batches of mined triplets; mining happens when a round's first batch is asked for."""
        mined = self.sampler.state_dict() if self.sampler is not None else None
        self.sampler = MinedBatchSampler(
            self._mine_and_share, round_size(self.places, self.mining), self.args.per_device_train_batch_size
        )
        if mined is not None:
            self.sampler.load_state_dict(mined)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
        )
        self.accelerator.even_batches = False
        return self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Describe all images of the batch in one pass and compare queries with positives and negatives.

        Args:
            model: The model, possibly wrapped for several processes.
            inputs: `pixel_values` (B, 2 + N, 3, H, W); B is 0 where no triplet could be read.
            return_outputs: Give the model's output, too.
            num_items_in_batch: Not used.
        """
        pixel_values = inputs["pixel_values"]
        if not len(pixel_values):
            return self._loss_of_nothing(model)
        output = model(pixel_values=pixel_values.flatten(0, 1))
        parts = [*_as_triplets(output.global_descriptors, *pixel_values.shape[:2])]
        if output.local_features is not None:
            parts.extend(_as_triplets(output.local_features, *pixel_values.shape[:2]))
        loss = self.loss(*parts)
        self._log_parts(loss.global_loss, loss.local_loss)
        return (loss.loss, output) if return_outputs else loss.loss

    def _loss_of_nothing(self, model: torch.nn.Module) -> Tensor:
        """Give a loss of zero that reaches every parameter, as the other processes of a step wait for gradients."""
        output = model(pixel_values=torch.zeros(1, 3, *self.preprocessing.image_size, device=self.args.device))
        parts = [part for part in (output.global_descriptors, output.local_features) if part is not None]
        return torch.stack([part.sum() for part in parts]).sum() * 0.0

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, or go on where a run was interrupted.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the last complete one in `output_dir`.
            **kwargs: Further arguments of `transformers.Trainer.train`.

        Raises:
            ValueError: If there is no complete checkpoint, it is of another run or another backbone, or it holds the
                model only.
        """
        if resume_from_checkpoint is True:
            found = checkpoints.complete_checkpoints(Path(self.args.output_dir))
            if not found:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
            resume_from_checkpoint = str(found[-1])
        self.sampler, self.negative_cache = None, NegativeCache()
        if resume_from_checkpoint:
            self._restore_mining(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def mine(self, number: int) -> np.ndarray:
        """Mine the triplets of a round with the model as it is.

        Args:
            number: Number of the round, counted from 0; together with the seed it determines what is drawn.

        Returns:
            (T, 2 + N) rows: query, positive, negatives.
        """
        generator = np.random.default_rng([self.args.seed, number])
        plan = plan_round(self.places, self.mining, generator)
        similarity = describe_round(
            self.accelerator.unwrap_model(self.model),
            self.places,
            plan,
            self.preprocessing,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            precision=self.compute_loss_context_manager(),
        )
        return choose_triplets(plan, self.places, self.mining, similarity, generator, self.negative_cache)

    def _mine_and_share(self, number: int) -> np.ndarray:
        """Mine in the first process and give the triplets to all."""
        if not dist.is_initialized():
            return self.mine(number)
        shared = [self.mine(number) if self.is_world_process_zero() else None]
        dist.broadcast_object_list(shared, src=0)
        assert shared[0] is not None
        return shared[0]

    def _triplet_dataset(self, args: SelaTrainingArguments) -> TripletDataset:
        augmentation = Augmentation(
            colour_jitter=args.colour_jitter,
            perspective=args.perspective,
            random_resized_crop=args.random_resized_crop,
            horizontal_flip=args.horizontal_flip,
        )
        resized = dataclasses.replace(self.preprocessing, resize="antialias")  # as the official training does
        return TripletDataset(self.places.queries, self.places.database, resized, augmentation, args.seed)

    # Evaluation

    def evaluate(
        self, eval_dataset: Any | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Locate the evaluation queries in the evaluation database.

        Args:
            eval_dataset: Anything `load_places` takes; None takes the trainer's own.
            ignore_keys: Not used.
            metric_key_prefix: What the names of the measures begin with.

        Returns:
            `eval_recall@N` of retrieval and `eval_reranked_recall@N`, shares in [0, 1].
        """
        splits = self.eval_splits if eval_dataset is None else load_places(eval_dataset)
        if splits is None:
            raise ValueError("There is nothing to evaluate on: pass eval_places to SelaTrainer, or eval_dataset here.")
        shared: list[dict[str, float] | None] = [None]
        if self.is_world_process_zero():
            shared = [self._recalls(splits, metric_key_prefix)]
        if dist.is_initialized():
            dist.broadcast_object_list(shared, src=0)
        metrics = shared[0]
        assert metrics is not None
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _recalls(self, splits: dict[str, Dataset], prefix: str) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        radius = self.args.radius("eval_positive_radius", radius_unit(splits[DATABASE]))
        start = time.time()
        with self.compute_loss_context_manager(), evaluation_mode(model):
            result = evaluate_two_stage(
                model,
                splits[QUERIES],
                splits[DATABASE],
                self.preprocessing,
                positive_radius=radius,
                rerank_num=self.args.rerank_num,
                batch_size=self.args.per_device_eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
            )
        if splits is self.eval_splits:
            protocol = evaluation_protocol(
                model, self.args, places=self.place_names.evaluation, positive_radius=radius
            )
            self.reports[protocol[ADAPTER_DIGEST]] = result.as_report(protocol)
        metrics = {f"{prefix}_recall@{n}": share for n, share in result.retrieval.items()}
        reranked = result.retrieval if result.reranked is None else result.reranked
        metrics |= {f"{prefix}_reranked_recall@{n}": share for n, share in reranked.items()}
        return metrics | speed_metrics(prefix, start, num_samples=result.num_queries)

    # Logging and saving

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of both losses since the last time, over all processes.

        Args:
            logs: What is logged.
            *args: Passed on.
            **kwargs: Passed on.
        """
        if "loss" in logs:
            parts = [[float(first), float(second), 1.0] for first, second in self._loss_parts]
            sums = torch.tensor([[0.0, 0.0, 0.0], *parts], device=self.args.device).sum(dim=0)
            first, second, number = self.accelerator.reduce(sums, reduction="sum").tolist()
            self._loss_parts = []
            if number:
                logs = logs | {"global_loss": round(first / number, 6), "local_loss": round(second / number, 6)}
        super().log(logs, *args, **kwargs)

    def _log_parts(self, global_loss: Tensor, local_loss: Tensor) -> None:
        if self.model.training:
            self._loss_parts.append((global_loss.detach(), local_loss.detach()))

    def _facts(self) -> tuple[list[Report], dict[str, Any]]:
        best = self.state.best_model_checkpoint
        best_adapter = self._adapter_folder(Path(best)) if best else None
        reports = reports_of_weights(self.accelerator.unwrap_model(self.model), self.reports, best_adapter)
        return reports, training_facts(self.args, self.state, self.places, self.place_names)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save what Trainer saves, then the mining state, and only then delete older checkpoints."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                checkpoints.mark_incomplete(folder)
            with naming_full_disk(Path(self.args.output_dir)):
                super()._save_checkpoint(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            checkpoints.write_mining_state(folder, self._mining_state())
            checkpoints.delete_old_checkpoints(Path(self.args.output_dir), limit, self.state.best_model_checkpoint)

    def _mining_state(self) -> dict[str, Any]:
        assert self.sampler is not None
        cache = {str(query): rows.tolist() for query, rows in self.negative_cache.rows.items()}
        return {
            "fingerprint": self._fingerprint(),
            "sampler": self.sampler.state_dict(),
            "negative_cache": cache,
            "is_model_only": self.args.save_only_model,
        }

    def _restore_mining(self, folder: Path) -> None:
        state = checkpoints.read_mining_state(folder, self._fingerprint())
        check_backbone(self.model, read_adapter_config(self._adapter_folder(folder)), "of this run")
        rows = {int(query): np.array(rows, dtype=np.int64) for query, rows in state["negative_cache"].items()}
        self.negative_cache = NegativeCache(rows)
        self.sampler = MinedBatchSampler(self._mine_and_share, 0, 1)  # get_train_dataloader takes over its state
        self.sampler.load_state_dict(state["sampler"])

    def _fingerprint(self) -> str:
        config = self.accelerator.unwrap_model(self.model).active_peft_config
        settings = checkpoints.continued_settings(self.args, config, self.mining.query_weights)
        return checkpoints.fingerprint_of(self.places, settings)


def _as_triplets(of_images: Tensor, num_queries: int, num_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tell queries, positives and negatives apart; split, because every slice would cost a gradient of its own."""
    groups = of_images.unflatten(0, (num_queries, num_images))
    query, positive, negatives = groups.split((1, 1, num_images - 2), dim=1)
    return query[:, 0], positive[:, 0], negatives


def _check_trainable(model: PeftModel) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("The adapter has no trainable parameters; load it with is_trainable=True.")


def _evaluation_splits(args: SelaTrainingArguments, eval_places: Any | None) -> dict[str, Dataset] | None:
    """Load what is evaluated on; a radius that is not known fails now, and not after the first round."""
    if eval_places is None:
        return None
    splits = load_places(eval_places)
    args.radius("eval_positive_radius", radius_unit(splits[DATABASE]))
    return splits
