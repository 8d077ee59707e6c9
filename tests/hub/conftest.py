"""What the tests of loading and conversion share: tiny official checkpoints, and a host that stays offline."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.hub.official_network import official_state, save_official


@pytest.fixture(autouse=True)
def _offline(offline):
    """Nothing here may ask the Hub itself."""


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A 2-block, 48-wide network; 48 channels are no multiple of 64, so the number of heads (3) has to be given."""
    return official_state()


@pytest.fixture
def checkpoint(tmp_path, state) -> Path:
    """The network of `state` as the official training script saves it."""
    return save_official(tmp_path / "SelaVPR.pth", state)


@pytest.fixture
def pixels() -> Tensor:
    """Two images of 3 x 4 patches, a grid on which the position table is resized."""
    return torch.randn(2, 3, 42, 56, generator=torch.Generator().manual_seed(5))
