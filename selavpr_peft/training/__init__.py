"""Train adapters: mined triplets, the two losses, and a Trainer that evaluates by two-stage Recall@N."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.training.arguments import SelaTrainingArguments
    from selavpr_peft.training.trainer import SelaTrainer

__all__ = ["SelaTrainer", "SelaTrainingArguments"]

__getattr__, __dir__, _ = _lazy_loader.attach(
    __name__, submod_attrs={"arguments": ["SelaTrainingArguments"], "trainer": ["SelaTrainer"]}
)
