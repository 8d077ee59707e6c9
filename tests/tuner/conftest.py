"""What the tuner's tests share: one tiny backbone of every supported family, and adapters that are not zero."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One supported kind of backbone, 2 blocks of width 32 with random weights."""

    model_class: type
    config_class: type
    patch_size: int
    blocks: str  # name of the list of blocks in adapter files, the same for every version of transformers
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self, *, seed: int = 0, **settings):
        config = self.config_class(
            **{
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 5 * self.patch_size,
                "patch_size": self.patch_size,
                "layerscale_value": 0.5,
            }
            | self.settings
            | settings
        )
        torch.manual_seed(seed)
        return self.model_class(config).eval()

    def images(self, rows=4, columns=6, *, count=2, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, rows * self.patch_size, columns * self.patch_size, generator=generator)


FAMILIES = {
    "dinov2": Family(model_class=Dinov2Model, config_class=Dinov2Config, patch_size=14, blocks="encoder.layer"),
    "dinov2-swiglu": Family(
        model_class=Dinov2Model,
        config_class=Dinov2Config,
        patch_size=14,
        blocks="encoder.layer",
        settings={"use_swiglu_ffn": True},
    ),
    "dinov2-registers": Family(
        model_class=Dinov2WithRegistersModel,
        config_class=Dinov2WithRegistersConfig,
        patch_size=14,
        blocks="encoder.layer",
    ),
    "dinov3": Family(
        model_class=DINOv3ViTModel,
        config_class=DINOv3ViTConfig,
        patch_size=16,
        blocks="layer",
        settings={"intermediate_size": 64, "num_register_tokens": 4},
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> Family:
    """Every supported family in turn."""
    return FAMILIES[request.param]


@pytest.fixture
def families() -> dict[str, Family]:
    """The supported families by name."""
    return FAMILIES


@pytest.fixture
def fill_adapter() -> Callable[..., Any]:
    """Give an adapter random weights that show in the output, and return the model."""

    def fill(model, adapter_name="default", *, seed=2, std=0.2):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "sela_gem_p" in name and name.endswith(adapter_name):
                    parameter.add_(torch.rand(1, generator=generator))  # stays positive
                elif "sela_" in name and f".{adapter_name}." in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return model

    return fill
