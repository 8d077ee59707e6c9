"""Going on after an interruption: to the same weights bit for bit, wherever it struck, or with one clear error."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from selavpr_peft.errors import BackboneMismatchError
from selavpr_peft.training import checkpoints
from tests.conftest import REPOSITORY
from tests.training.tiny import tiny_model, tiny_trainer, trained_weights

RUN = {"num_train_epochs": 3.0, "queries_per_round": 12, "save_strategy": "steps", "colour_jitter": 0.3}
"""Three rounds of three steps."""


class Interrupted(Exception):
    """What strikes a run in these tests."""


class InterruptAfter(TrainerCallback):
    """Strike when a step is done, before anything of it is saved."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interrupted


@pytest.fixture(scope="module")
def uninterrupted(city, tmp_path_factory):
    """Give the weights that a run without interruption ends with, by its settings."""
    found = {}

    def weights(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in found:
            trainer = tiny_trainer(city, tmp_path_factory.mktemp("whole"), **RUN | {"save_strategy": "no"} | settings)
            trainer.train()
            found[key] = trained_weights(trainer.model)
        return found[key]

    return weights


def interrupt(make_trainer, step, **settings):
    with pytest.raises(Interrupted):
        make_trainer(callbacks=[InterruptAfter(step)], **RUN | settings).train()


def assert_bitwise_equal(first, second):
    assert first.keys() == second.keys()
    different = [name for name, weight in first.items() if not torch.equal(weight, second[name])]
    assert not different


def saved_steps(folder):
    return [int(path.name.rpartition("-")[2]) for path in checkpoints.complete_checkpoints(folder)]


class TestExactResume:
    @pytest.mark.parametrize(
        ("save_steps", "interrupted_at", "resumed_from"),
        [(2.0, 3, 2), (3.0, 5, 3), (5.0, 8, 5)],
        ids=["in the first round", "between rounds", "in a later round"],
    )
    def test_the_final_weights_are_those_of_an_uninterrupted_run(
        self, make_trainer, uninterrupted, tmp_path, save_steps, interrupted_at, resumed_from
    ):
        interrupt(make_trainer, interrupted_at, save_steps=save_steps)
        assert saved_steps(tmp_path / "run")[-1] == resumed_from
        trainer = make_trainer(save_steps=save_steps, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 9
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())

    @pytest.mark.parametrize("mode", ["full", "random"])
    def test_so_they_are_in_other_ways_of_mining(self, make_trainer, uninterrupted, tmp_path, mode):
        # A pool of one: without its memory of earlier negatives, full mining would choose others.
        interrupt(make_trainer, 8, save_steps=4.0, mining=mode, negative_pool=2)
        trainer = make_trainer(save_steps=4.0, mining=mode, negative_pool=2, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted(mining=mode, negative_pool=2))

    def test_so_they_are_with_accumulated_gradients_workers_and_a_schedule(self, make_trainer, uninterrupted):
        settings = {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "lr_scheduler_type": "cosine",
            "dataloader_num_workers": 1,
        }
        interrupt(make_trainer, 6, save_steps=5.0, **settings)
        trainer = make_trainer(save_steps=5.0, **RUN, **settings)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted(**settings))

    def test_so_they_are_after_two_interruptions(self, make_trainer, uninterrupted):
        interrupt(make_trainer, 3, save_steps=1.0)
        with pytest.raises(Interrupted):
            make_trainer(callbacks=[InterruptAfter(7)], save_steps=1.0, **RUN).train(resume_from_checkpoint=True)
        trainer = make_trainer(save_steps=1.0, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())

    def test_so_they_are_from_a_named_checkpoint(self, make_trainer, uninterrupted, tmp_path):
        interrupt(make_trainer, 8, save_steps=2.0)
        trainer = make_trainer(save_steps=2.0, **RUN)
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())

    def test_patience_is_counted_on(self, city, make_trainer, tmp_path):
        settings = RUN | {
            "num_train_epochs": 9.0,
            "queries_per_epoch": 12,
            "save_strategy": "epoch",
            "patience": 3,
            "load_best_model_at_end": False,
        }

        def make(callbacks=()):
            trainer = make_trainer(eval_places=city, callbacks=callbacks, **settings)
            trainer._recalls = lambda splits, prefix: {
                f"{prefix}_reranked_recall@5": 0.5
            }  # never better than at first
            return trainer

        with pytest.raises(Interrupted):
            make([InterruptAfter(8)]).train()  # after the second evaluation
        trainer = make()
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.epoch == 4  # as without the interruption: 0.5, and three times no better

    def test_a_finished_run_may_be_made_longer(self, make_trainer, uninterrupted):
        make_trainer(save_steps=3.0, **RUN | {"num_train_epochs": 2.0}).train()
        trainer = make_trainer(save_steps=3.0, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())


class TestHalfWrittenCheckpoints:
    def test_the_last_complete_one_is_taken(self, make_trainer, uninterrupted, tmp_path):
        interrupt(make_trainer, 7, save_steps=2.0)
        (tmp_path / "run" / "checkpoint-6" / checkpoints.STATE_NAME).unlink()
        trainer = make_trainer(save_steps=2.0, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())
        assert saved_steps(tmp_path / "run") == [2, 4, 6, 8, 9]

    def test_naming_one_is_an_error(self, make_trainer, tmp_path):
        interrupt(make_trainer, 3, save_steps=2.0)
        folder = tmp_path / "run" / "checkpoint-2"
        (folder / checkpoints.STATE_NAME).unlink()
        with pytest.raises(ValueError, match="checkpoint-2 is no complete checkpoint"):
            make_trainer(**RUN).train(resume_from_checkpoint=str(folder))

    def test_without_a_complete_one_it_is_an_error(self, make_trainer):
        with pytest.raises(ValueError, match="There is no complete checkpoint in .*run to resume from"):
            make_trainer(**RUN).train(resume_from_checkpoint=True)

    def test_while_it_is_written_over_an_older_one_does_not_count(self, make_trainer, tmp_path, monkeypatch):
        make_trainer(save_steps=3.0, **RUN).train()
        trainer = make_trainer(save_steps=3.0, **RUN)

        def strike(folder):
            assert saved_steps(tmp_path / "run") == [6, 9]  # checkpoint-3 of the first run is being written over
            raise Interrupted

        trainer._save_rng_state = strike
        with pytest.raises(Interrupted):
            trainer.train()


class TestFullDisk:
    def fill(self, trainer, step):
        """Let the disk be full when the optimiser of a step is saved, which follows the adapter."""
        original = trainer._save_optimizer_and_scheduler

        def save(folder):
            if trainer.state.global_step == step:
                raise OSError(errno.ENOSPC, "No space left on device", folder)
            original(folder)

        trainer._save_optimizer_and_scheduler = save

    def test_the_last_good_checkpoint_stays_loadable(self, make_trainer, uninterrupted, tmp_path):
        trainer = make_trainer(save_steps=2.0, save_total_limit=1, **RUN)
        self.fill(trainer, step=6)
        with pytest.raises(OSError, match="No space left on device"):
            trainer.train()
        assert saved_steps(tmp_path / "run") == [4]
        assert trainer.args.save_total_limit == 1
        resumed = make_trainer(save_steps=2.0, save_total_limit=1, **RUN)
        resumed.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(resumed.model), uninterrupted())
        assert saved_steps(tmp_path / "run") == [9]

    def test_so_it_does_when_the_last_file_does_not_fit(self, make_trainer, tmp_path, monkeypatch):
        trainer = make_trainer(save_steps=2.0, save_total_limit=1, **RUN)
        original = checkpoints.write_text_atomically

        def write(path, text):
            if path.parent.name == "checkpoint-4":
                raise OSError(errno.ENOSPC, "No space left on device")
            original(path, text)

        monkeypatch.setattr(checkpoints, "write_text_atomically", write)
        with pytest.raises(OSError, match="No space left"):
            trainer.train()
        assert saved_steps(tmp_path / "run") == [2]


@pytest.fixture(scope="module")
def interrupted(city, tmp_path_factory):
    """The folder of a run that was interrupted after step 3, with a checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Interrupted):
        tiny_trainer(city, folder, save_steps=2.0, callbacks=[InterruptAfter(3)], **RUN).train()
    return folder


class TestOtherRuns:
    @pytest.mark.parametrize(
        "changed",
        [
            {"negative_radius": 2.0},
            {"num_negatives": 1},
            {"mining": "full"},
            {"seed": 7},
            {"queries_per_round": 16},
            {"per_device_train_batch_size": 3},
            {"global_margin": 0.2},
            {"local_weight": 0.5},
            {"learning_rate": 1e-4},
            {"colour_jitter": 0.0},
            {"adam_beta2": 0.9},
        ],
        ids=str,
    )
    def test_other_settings_are_refused(self, city, interrupted, changed):
        trainer = tiny_trainer(city, interrupted, **RUN | changed)
        with pytest.raises(ValueError, match="other places, mining or adapter settings"):
            trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 0

    def test_another_adapter_is_refused(self, city, interrupted):
        trainer = tiny_trainer(city, interrupted, model=tiny_model(bottleneck_ratio=0.25), **RUN)
        with pytest.raises(ValueError, match="other places, mining or adapter settings"):
            trainer.train(resume_from_checkpoint=True)

    def test_another_backbone_is_refused(self, city, interrupted):
        model = tiny_model()
        with torch.no_grad():
            model.base_model.model.layernorm.bias += 0.1
        trainer = tiny_trainer(city, interrupted, model=model, **RUN)
        with pytest.raises(BackboneMismatchError, match="backbone of this run has other weights"):
            trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 0

    def test_a_checkpoint_without_the_optimiser_is_refused(self, make_trainer):
        make_trainer(**RUN | {"save_steps": 4.0, "save_only_model": True}).train()
        with pytest.raises(ValueError, match="save_only_model and holds no state of the optimiser"):
            make_trainer(**RUN).train(resume_from_checkpoint=True)

    def test_other_places_are_refused(self, own_city, interrupted):
        table = own_city / "places.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join(lines[:-1]) + "\n")  # one image less
        trainer = tiny_trainer(own_city, interrupted, **RUN)
        with pytest.raises(ValueError, match="other places, mining or adapter settings"):
            trainer.train(resume_from_checkpoint=True)

    def test_a_copy_of_the_same_places_is_not_another_run(self, own_city, interrupted, tmp_path):
        folder = shutil.copytree(interrupted, tmp_path / "run")
        trainer = tiny_trainer(own_city, folder, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 9


@pytest.mark.slow
class TestKilledProcess:
    def test_killed_while_a_checkpoint_is_written_it_goes_on_to_the_same_weights(
        self, city, make_trainer, uninterrupted, tmp_path
    ):
        request = {
            "city": str(city),
            "output": str(tmp_path / "run"),
            "settings": RUN | {"save_steps": 2.0},
            "killed_at": 6,
            "num_threads": torch.get_num_threads(),
        }
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.training.tiny", json.dumps([request])],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        half_written = tmp_path / "run" / "checkpoint-6"
        assert (half_written / "optimizer.pt").is_file()
        assert saved_steps(tmp_path / "run") == [2, 4]
        trainer = make_trainer(save_steps=2.0, **RUN)
        trainer.train(resume_from_checkpoint=True)
        assert_bitwise_equal(trained_weights(trainer.model), uninterrupted())
        written = load_file(Path(tmp_path, "run", "checkpoint-9", "adapter_model.safetensors"))
        assert len(written) == len(uninterrupted())
