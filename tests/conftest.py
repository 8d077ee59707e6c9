"""What tests share: the tiny backbones, and where the shared weights, photographs and recordings lie."""

import os
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.hub.hub_client import use_the_hub
from tests.hub.hub_server import hub

REPOSITORY = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    """Put files with slow tests first: the last thing that one process does while others idle should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Models this small only wait for one another's threads; `make test` has a process for every core instead."""
    torch.set_num_threads(1)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that this process takes for the Hub, asked with hub_client.TOKEN, and again without waiting."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with hub() as running:
        use_the_hub(monkeypatch, running.url, tmp_path / "cache")
        yield running


@pytest.fixture
def offline(monkeypatch):
    """Names that are no folder fail at once instead of being looked for on the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)  # a copy in transformers 4


@pytest.fixture
def shared() -> Path:
    """The folder of shared test material; tests that need it skip where it is not."""
    folder = Path(os.environ.get("SELAVPR_SHARED_DIR", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared test material at {folder} (set SELAVPR_SHARED_DIR)")
    return folder


@pytest.fixture
def tiny_backbone() -> Dinov2Model:
    """A random 2-block, 32-wide DINOv2 with patches of 14 px and a 5 x 5 position table."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14, layerscale_value=0.5
    )
    return Dinov2Model(config).eval()


@pytest.fixture
def images() -> torch.Tensor:
    """A batch of two random images of 4 x 6 patches."""
    return torch.randn(2, 3, 56, 84, generator=torch.Generator().manual_seed(1))
