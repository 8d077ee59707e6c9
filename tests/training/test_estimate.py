"""What a run is announced to look at, and that announcing it changes nothing."""

import pytest
import torch

from selavpr_peft.training.estimate import estimate_run
from tests.training.tiny import trained_weights


class TestCounts:
    def test_golden_case(self, make_trainer):
        # 24 images, each with one positive by the other light; rounds of 8 queries with 2 negatives each: 8 x 4 images
        # trained, 8 + 10 described; batches of 4
        found = estimate_run(make_trainer(num_train_epochs=6.0, queries_per_epoch=16))
        assert found.pop("estimated_hours") >= 0
        assert found == {
            "queries": 24,
            "queries_without_positive": 0,
            "database": 24,
            "rounds": 6,
            "queries_per_round": 8,
            "trained_images_per_round": 32,
            "mined_images_per_round_about": 18,
            "steps_per_round": 2,
            "rounds_per_evaluation": 2,
        }

    @pytest.mark.parametrize(("mode", "mined"), [("partial", 18), ("random", 8), ("full", 32)])
    def test_every_mode_describes_other_images(self, make_trainer, mode, mined):
        assert estimate_run(make_trainer(mining=mode))["mined_images_per_round_about"] == mined

    def test_numbers_larger_than_the_data_are_clamped(self, make_trainer):
        found = estimate_run(make_trainer(queries_per_round=1000, negative_pool=1000))
        assert (found["queries_per_round"], found["mined_images_per_round_about"]) == (24, 48)

    def test_a_limit_of_steps_limits_the_rounds(self, make_trainer):
        assert estimate_run(make_trainer(max_steps=5))["rounds"] == 3  # 2 steps each
        assert estimate_run(make_trainer(max_steps=5, gradient_accumulation_steps=2))["rounds"] == 5


class TestItChangesNothing:
    def test_weights_gradients_and_mode_stay(self, make_trainer):
        trainer = make_trainer()
        trainer.model.train()
        before = trained_weights(trainer.model)
        estimate_run(trainer)
        assert all(torch.equal(weight, before[name]) for name, weight in trained_weights(trainer.model).items())
        assert all(parameter.grad is None for parameter in trainer.model.parameters())
        assert trainer.model.training

    def test_the_blank_images_are_in_no_log(self, make_trainer):
        runs = [make_trainer(max_steps=1) for _ in range(2)]
        estimate_run(runs[1])
        logs = []
        for trainer in runs:
            trainer.train()
            logs.append(trainer.state.log_history[0])
        assert logs[0]["global_loss"] == logs[1]["global_loss"]
