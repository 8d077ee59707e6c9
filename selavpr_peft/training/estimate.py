"""What a training run is going to look at, and about how long that takes on this machine."""

import math
import time
from typing import Any

import torch

from selavpr_peft.training.arguments import SelaTrainingArguments
from selavpr_peft.training.mining import round_size
from selavpr_peft.training.mining_pass import evaluation_mode
from selavpr_peft.training.trainer import SelaTrainer


def estimate_run(trainer: SelaTrainer) -> dict[str, Any]:
    """Count queries, database and images, and estimate the time by one training step on blank images.

    Args:
        trainer: A trainer that is set up; its weights are left as they are.

    Returns:
        Counts, and `estimated_hours` for the longest the run can take (early stopping makes it shorter).
    """
    places, arguments = trainer.places, trainer.args
    per_round = round_size(places, trainer.mining)
    images_per_query = 2 + arguments.num_negatives
    steps_per_round = per_round // (arguments.per_device_train_batch_size * arguments.world_size)
    num_rounds = _num_rounds(arguments, steps_per_round)
    mined = per_round + _pool_size(trainer)
    seconds_per_image = _seconds_per_image(trainer)
    # a forward and a backward pass take about three forward passes, of which mining is one
    seconds = num_rounds * (per_round * images_per_query + mined / 3) * seconds_per_image
    return {
        "queries": len(places.queries),
        "queries_without_positive": places.num_queries_without_positive,
        "database": len(places.database),
        "rounds": num_rounds,
        "queries_per_round": per_round,
        "trained_images_per_round": per_round * images_per_query,
        "mined_images_per_round_about": mined,
        "steps_per_round": steps_per_round,
        "rounds_per_evaluation": arguments.rounds_per_evaluation,
        "estimated_hours": round(seconds / 3600, 2),
    }


def _num_rounds(arguments: SelaTrainingArguments, steps_per_round: int) -> int:
    if arguments.max_steps <= 0:
        return math.ceil(arguments.num_train_epochs)
    return math.ceil(arguments.max_steps * arguments.gradient_accumulation_steps / steps_per_round)


def _pool_size(trainer: SelaTrainer) -> int:
    """Database images that are described for the sake of negatives."""
    whole = len(trainer.places.database)
    return {"full": whole, "random": 0}.get(trainer.mining.mode, min(trainer.mining.negative_pool, whole))


def _seconds_per_image(trainer: SelaTrainer) -> float:
    """Time one training step on blank images, without changing any weight."""
    height, width = trainer.preprocessing.image_size
    images = torch.zeros(1, 2 + trainer.args.num_negatives, 3, height, width, device=trainer.args.device)
    model = trainer.model
    start = time.perf_counter()
    with trainer.compute_loss_context_manager(), evaluation_mode(model):  # in which no loss is logged
        loss = trainer.compute_loss(model, {"pixel_values": images})
    loss.backward()
    elapsed = time.perf_counter() - start
    model.zero_grad()
    return elapsed / images.shape[1]
