"""Two processes train together: as one process does with the batches of both."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY
from tests.training.tiny import tiny_trainer, trained_weights

RUN = {
    "optim": "sgd",  # Adam would turn rounding of tiny gradients into whole steps
    "learning_rate": 0.05,
    "queries_per_round": 12,
    "num_train_epochs": 3.0,
    "queries_per_epoch": 24,
    "save_strategy": "steps",
    "save_steps": 2.0,
    "load_best_model_at_end": False,
}
TIMEOUT_S = 240


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_together(requests, num_processes=2):
    """Start the processes as torchrun would and wait for all of them; none outlives the test."""
    common = {
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.tiny", json.dumps(requests)]
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(num_processes)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    report = "\n".join(outputs)  # of all: where one breaks off, the others only miss it
    assert all(process.returncode == 0 for process in processes), report


def weights_of(folder, rank):
    return load_file(folder / f"weights-{rank}.safetensors")


@pytest.fixture(scope="module")
def folders(city, tmp_path_factory):
    """The folders of three runs of two processes, with two queries each per step: a whole one, one that goes on within
    the second round of the first, and a short one in which the first process has nothing to read at its first step.
    """
    output = tmp_path_factory.mktemp("together")
    common = {
        "city": str(city),
        "settings": RUN | {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "ddp_timeout": 100},
    }
    runs = {
        "whole": {"eval_places": str(city)},
        "resumed": {"resume": str(output / "whole" / "checkpoint-4")},
        "unreadable": {"unreadable": [0, 1], "settings": common["settings"] | {"max_steps": 2}},
    }
    run_together([common | {"output": str(output / name)} | changed for name, changed in runs.items()])
    return {name: output / name for name in runs}


@pytest.mark.slow
class TestTwoProcesses:
    def test_they_end_with_the_weights_of_one_process_with_the_batches_of_both(self, folders, city, tmp_path):
        alone = tiny_trainer(city, tmp_path, per_device_train_batch_size=4, **RUN | {"save_strategy": "no"})
        alone.train()
        expected = trained_weights(alone.model)
        for rank in (0, 1):
            found = weights_of(folders["whole"], rank)
            assert found.keys() == expected.keys()
            for name, weight in expected.items():
                torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)

    def test_both_hold_the_same_weights_bit_for_bit(self, folders):
        first, second = (weights_of(folders["whole"], rank) for rank in (0, 1))
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())

    def test_both_know_every_evaluation(self, folders):
        logs = [json.loads((folders["whole"] / f"log-{rank}.json").read_text()) for rank in (0, 1)]
        recalls = [[entry["eval_recall@5"] for entry in log if "eval_recall@5" in entry] for log in logs]
        assert recalls[0] == recalls[1]
        assert len(recalls[0]) == 2  # after two rounds and at the end

    def test_logged_losses_are_those_of_all_processes(self, folders):
        log = [entry for entry in json.loads((folders["whole"] / "log-0.json").read_text()) if "loss" in entry]
        assert len(log) == 9
        for entry in log:
            assert entry["global_loss"] + entry["local_loss"] == pytest.approx(entry["loss"], abs=2e-4)

    def test_every_round_has_triplets_of_its_own(self, folders):
        states = [
            json.loads((folders["whole"] / f"checkpoint-{step}" / "mining_state.json").read_text())["sampler"]
            for step in (2, 4, 8)
        ]
        assert [state["round"] for state in states] == [0, 1, 2]
        assert len({json.dumps(state["triplets"]) for state in states}) == 3

    def test_an_interruption_within_a_round_is_made_good(self, folders):
        for rank in (0, 1):
            found = weights_of(folders["resumed"], rank)
            for name, weight in weights_of(folders["whole"], rank).items():
                torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)

    def test_a_process_without_a_readable_triplet_does_not_stop_the_other(self, folders):
        first, second = (weights_of(folders["unreadable"], rank) for rank in (0, 1))
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())
