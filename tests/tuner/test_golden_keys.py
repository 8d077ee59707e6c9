"""The public file format: names and shapes of the tensors in `adapter_model.safetensors`, for the models people use.

Adapters that are out in the world have these names; a change here needs a new `layout_version`.
"""

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from selavpr_peft import SelaConfig

SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}
PATCH_14 = {"image_size": 518, "patch_size": 14}

# Backbone, name of its list of blocks in files, number of blocks, width, hidden width of an adapter.
BACKBONES = {
    "dinov2-small": (Dinov2Model, Dinov2Config(**SMALL, **PATCH_14), "encoder.layer", 12, 384, 192),
    "dinov2-large": (Dinov2Model, Dinov2Config(**LARGE, **PATCH_14), "encoder.layer", 24, 1024, 512),
    "dinov2-giant": (Dinov2Model, Dinov2Config(**GIANT, **PATCH_14), "encoder.layer", 40, 1536, 768),
    "dinov2-with-registers-small": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**SMALL, **PATCH_14),
        "encoder.layer",
        12,
        384,
        192,
    ),
    "dinov3-vits16": (DINOv3ViTModel, DINOv3ViTConfig(**SMALL, intermediate_size=1536), "layer", 12, 384, 192),
}

BLOCK = {
    "attention.sela_down.weight": ("W", "D"),
    "attention.sela_down.bias": ("W",),
    "attention.sela_up.weight": ("D", "W"),
    "attention.sela_up.bias": ("D",),
    "mlp.sela_down.weight": ("W", "D"),
    "mlp.sela_down.bias": ("W",),
    "mlp.sela_up.weight": ("D", "W"),
    "mlp.sela_up.bias": ("D",),
}
HEAD = {
    "vpr_head.sela_gem_p": (1,),
    "vpr_head.sela_upconv1.weight": ("D", 256, 3, 3),
    "vpr_head.sela_upconv1.bias": (256,),
    "vpr_head.sela_upconv2.weight": (256, 128, 3, 3),
    "vpr_head.sela_upconv2.bias": (128,),
}


def adapt(model_class, config, settings):
    with torch.device("meta"):
        return get_peft_model(model_class(config), settings)


def template(blocks, num_blocks, width, adapter_width):
    """Names and shapes, written out from the two tables above."""
    names = {f"{blocks}.{index}.{name}": shape for index in range(num_blocks) for name, shape in BLOCK.items()}
    sizes = {"D": width, "W": adapter_width}
    return {
        f"base_model.model.{name}": tuple(sizes.get(axis, axis) for axis in shape)
        for name, shape in (names | HEAD).items()
    }


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", BACKBONES)
class TestFileOf:
    def test_has_exactly_these_tensors_in_float32(self, name):
        model_class, config, *numbers = BACKBONES[name]
        state = get_peft_model_state_dict(adapt(model_class, config, SelaConfig()))
        assert shapes(state) == template(*numbers)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}

    def test_has_the_same_tensors_whatever_the_adapter_is_called(self, name):
        model_class, config, *numbers = BACKBONES[name]
        with torch.device("meta"):
            model = get_peft_model(model_class(config), SelaConfig(), "layer")  # a name that occurs in the keys
        assert shapes(get_peft_model_state_dict(model, adapter_name="layer")) == template(*numbers)


class TestOptions:
    """On ViT-S; what is switched off is not in the file."""

    def state(self, **settings):
        model_class, config, *_ = BACKBONES["dinov2-small"]
        return shapes(get_peft_model_state_dict(adapt(model_class, config, SelaConfig(**settings))))

    def test_without_a_local_head_gem_is_left(self):
        expected = {name: shape for name, shape in self.whole().items() if "upconv" not in name}
        assert self.state(use_local_head=False) == expected

    @pytest.mark.parametrize(
        ("settings", "kind"), [({"use_parallel_adapter": False}, "mlp"), ({"use_serial_adapter": False}, "attention")]
    )
    def test_a_kind_that_is_switched_off_is_left_out(self, settings, kind):
        assert self.state(**settings) == {n: shape for n, shape in self.whole().items() if f".{kind}." not in n}

    def test_only_the_named_blocks_are_there(self):
        names = self.state(layers_to_transform=[0, 11])
        assert len(names) == 2 * 8 + 5
        assert names == {n: s for n, s in self.whole().items() if ".layer.0." in n or ".layer.11." in n or "head" in n}

    def test_sizes_follow_the_settings(self):
        state = self.state(bottleneck_ratio=0.25, local_channels=(64, 32))
        assert state["base_model.model.encoder.layer.3.mlp.sela_down.weight"] == (96, 384)
        assert state["base_model.model.vpr_head.sela_upconv1.weight"] == (384, 64, 3, 3)
        assert state["base_model.model.vpr_head.sela_upconv2.weight"] == (64, 32, 3, 3)

    def whole(self):
        return template("encoder.layer", 12, 384, 192)
