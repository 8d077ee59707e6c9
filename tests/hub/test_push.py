"""Pushing and pulling adapters over HTTP, against a server on this machine (what it proves: see hub_server.py)."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from selavpr_peft.data.toy_city import write_toy_city
from tests.conftest import REPOSITORY
from tests.hub.hub_server import hub

TOKEN = "hf_a-token-that-nobody-may-see"
TRAIN = """
from pathlib import Path
from tests.training.tiny import tiny_trainer

trainer = tiny_trainer(
    CITY, "run", num_train_epochs=1.0, save_strategy="epoch", push_to_hub=True, hub_model_id="me/city-adapter"
)
trainer.train()
trainer.push_to_hub()
trainer.model.save_pretrained("kept")
"""
PUSH = """
from tests.training.tiny import tiny_model

model = tiny_model()
model.push_to_hub("me/plain")
model.save_pretrained("kept")
"""
PULL = """
import torch
from peft import PeftModel
import selavpr_peft
from tests.training.tiny import tiny_backbone

pulled = PeftModel.from_pretrained(tiny_backbone(), REPOSITORY_ID).eval()
kept = PeftModel.from_pretrained(tiny_backbone(), "kept").eval()
pixels = torch.randn(1, 3, 56, 56)
with torch.no_grad():
    same = torch.equal(pulled(pixel_values=pixels).local_features, kept(pixel_values=pixels).local_features)
print("same" if same else "different")
"""


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """Twelve places to train on."""
    return write_toy_city(tmp_path_factory.mktemp("city"), num_places=12, size=(56, 56))


@pytest.fixture
def server():
    with hub() as running:
        yield running


@pytest.fixture
def run(server, tmp_path):
    """Run a program whose Hub is the server; its libraries read where that is when they are imported."""

    def run(program, **names):
        lines = [f"{name} = {str(value)!r}" for name, value in names.items()]
        environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
        }
        source = "\n".join(lines) + textwrap.dedent(program)
        return subprocess.run(
            [sys.executable, "-c", source], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
class TestTrainerPush:
    def test_a_trained_adapter_is_pushed_without_pickles_or_token_and_pulled_as_it_was(
        self, run, server, city, tmp_path
    ):
        trained = run(TRAIN, CITY=city)
        assert trained.returncode == 0, trained.stderr
        files = server.repositories["me/city-adapter"].files
        assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
        assert not [name for name in files if not name.endswith((".json", ".safetensors", ".md", ".gitattributes"))]
        assert json.loads(files["adapter_config.json"])["peft_type"] == "SELA"
        assert f"Bearer {TOKEN}" in server.tokens
        assert TOKEN not in trained.stdout + trained.stderr
        written = [path for path in tmp_path.rglob("*") if path.is_file() and "hf" not in path.parts]
        assert written
        assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
        assert not [name for name, content in files.items() if TOKEN.encode() in content]
        pulled = run(PULL, REPOSITORY_ID="me/city-adapter")
        assert pulled.stdout.strip() == "same", pulled.stderr


@pytest.mark.slow
class TestModelPush:
    def test_a_model_is_pushed_and_pulled_as_it_was(self, run, server):
        pulled = run(PUSH + PULL, REPOSITORY_ID="me/plain")
        assert pulled.returncode == 0, pulled.stderr
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(server.repositories["me/plain"].files)
        assert pulled.stdout.strip() == "same", pulled.stderr

    def test_a_server_that_fails_once_is_asked_again(self, run, server):
        server.failures.append(("PUT /lfs", 503))
        pushed = run(PUSH)
        assert pushed.returncode == 0, pushed.stderr
        assert not server.failures
        assert "adapter_model.safetensors" in server.repositories["me/plain"].files

    def test_a_repository_that_is_not_there_is_named(self, run):
        pulled = run(PULL, REPOSITORY_ID="me/nothing")
        assert pulled.returncode != 0
        assert "me/nothing" in pulled.stderr
