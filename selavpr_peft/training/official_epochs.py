"""Evaluate and save after official epochs, of which one is several of Trainer's: a Trainer epoch is a mining round."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from selavpr_peft.training.arguments import SelaTrainingArguments


class EvaluateAfterOfficialEpochs(TrainerCallback):
    """With the strategy "epoch", evaluate and save after every `rounds_per_evaluation` rounds and at the end."""

    def on_epoch_end(
        self, args: SelaTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Take back what Trainer's default decided for the rounds in between.

        Args:
            args: Settings of the run.
            state: Progress of the run.
            control: What Trainer does next; changed.
            **kwargs: Not used.
        """
        number = round(state.epoch or 0)
        if number % args.rounds_per_evaluation and state.global_step < state.max_steps:
            if args.eval_strategy == "epoch":
                control.should_evaluate = False
            if args.save_strategy == "epoch":
                control.should_save = False
        return control
