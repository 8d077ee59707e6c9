"""A training run of a second: a tiny backbone, a toy city of twelve places and few steps.

Run as a program, it is one process of runs that are killed or that several processes share:

    python -m tests.training.tiny '[{"city": ..., "output": ..., "settings": {...}}]'
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from selavpr_peft import SelaConfig
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.training import SelaTrainer, SelaTrainingArguments
from selavpr_peft.training.images import TripletImages

SETTINGS = {
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "logging_steps": 1.0,
    "save_strategy": "no",
    "positive_radius": 0.0,
    "negative_radius": 1.0,
    "eval_positive_radius": 0.0,
    "queries_per_round": 8,
    "queries_per_epoch": 8,
    "negative_pool": 10,
    "num_train_epochs": 2.0,
    "learning_rate": 1e-3,
    "rerank_num": 5,
    "per_device_eval_batch_size": 8,
}
"""Two rounds of two steps."""


def tiny_backbone():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, layerscale_value=0.5
    )
    return Dinov2Model(config).eval()


def tiny_model(**settings):
    """A fresh adapter on a random backbone, the same at every call."""
    config = SelaConfig(**{"image_size": (56, 56), "local_channels": (8, 4)} | settings)
    return adapt_freshly(tiny_backbone(), config, seed=0)


def tiny_trainer(city, output, *, model=None, eval_places=None, query_weights=None, callbacks=(), **settings):
    return SelaTrainer(
        model=tiny_model() if model is None else model,
        args=SelaTrainingArguments(output_dir=str(output), **SETTINGS | settings),
        train_places=city,
        eval_places=eval_places,
        query_weights=query_weights,
        callbacks=list(callbacks),
    )


def trained_weights(model):
    """Copies of all trainable parameters, by name."""
    return {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


class WithUnreadable(torch.utils.data.Dataset):
    """Triplets of which those at some positions of a round cannot be read."""

    def __init__(self, triplets, positions):
        self.triplets = triplets
        self.positions = positions

    def __len__(self):
        return len(self.triplets)

    def __getitem__(self, index):
        if index.position in self.positions:
            return TripletImages(None, f"The image at position {index.position} cannot be read.")
        return self.triplets[index]


def main(requests):
    """Run trainings one after another; the processes of a group must be given the same ones."""
    for request in requests:
        run(**request)


def run(*, city, output, settings, eval_places=None, resume=None, killed_at=None, unreadable=(), num_threads=1):
    """Train and leave the weights and the log of this process in the folder `output`."""
    torch.set_num_threads(num_threads)
    trainer = tiny_trainer(city, output, eval_places=eval_places, **settings)
    if killed_at is not None:
        kill_while_saving(trainer, killed_at)
    if unreadable:
        trainer.train_dataset = WithUnreadable(trainer.train_dataset, unreadable)
    trainer.train(resume_from_checkpoint=resume)
    rank = trainer.args.process_index
    save_file(trained_weights(trainer.model), Path(output, f"weights-{rank}.safetensors"))
    Path(output, f"log-{rank}.json").write_text(json.dumps(trainer.state.log_history))


def kill_while_saving(trainer, step):
    """End the process, as a power cut would, when everything of a checkpoint is written but what completes it."""
    original = trainer._mining_state

    def mining_state():
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original()

    trainer._mining_state = mining_state


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
