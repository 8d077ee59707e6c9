"""Packed weights give the same network, only while they are asked for, and only to layers that can have them."""

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from selavpr_peft import packed_product
from selavpr_peft.modeling.packed_linear import packed_weights

pytestmark = pytest.mark.skipif(
    not packed_product.can_pack(torch.device("cpu"), torch.float32),
    reason="oneDNN's operators are for x86 processors",
)


def dinov2(**settings):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, **settings
    )
    return Dinov2Model(config).eval()


def num_packed(model):
    return sum("forward" in vars(module) for module in model.modules() if isinstance(module, nn.Linear))


@pytest.fixture
def images():
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def run(model, images):
    return model(pixel_values=images).last_hidden_state


class TestOutputs:
    @pytest.mark.parametrize("settings", [{}, {"use_swiglu_ffn": True}, {"hidden_act": "relu"}])
    def test_are_those_of_the_network_as_it_was(self, settings, images):
        model = dinov2(**settings)
        plain = run(model, images)
        with packed_weights(model):
            packed = run(model, images)
            assert num_packed(model) == sum(isinstance(module, nn.Linear) for module in model.modules()) > 8
        assert (packed - plain).abs().max() < 1e-5

    @pytest.mark.parametrize("how", ["autocast", "weights"])
    def test_in_bfloat16_are_within_its_rounding(self, how, images):
        model = dinov2()
        exact = run(model, images)
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            if how == "weights":
                model, images = model.bfloat16(), images.bfloat16()
            plain = run(model, images)
            with packed_weights(model):
                packed = run(model, images)
        assert packed.dtype == plain.dtype
        assert (packed - exact).abs().mean() < 1.5 * (plain - exact).abs().mean() + 1e-3

    def test_of_a_layer_without_bias(self):
        linear = nn.Linear(8, 4, bias=False)
        x = torch.randn(3, 5, 8)
        plain = linear(x)
        with packed_weights(linear), torch.inference_mode():
            assert torch.allclose(linear(x), plain, atol=1e-6)

    def test_of_a_gelu_that_is_not_exact_are_left_to_pytorch(self, images):
        model = dinov2(hidden_act="gelu_new")
        plain = run(model, images)
        with packed_weights(model):
            assert (run(model, images) - plain).abs().max() < 1e-5


class TestWhileTheyLast:
    def test_nothing_is_left_afterwards_not_even_after_an_error(self, images):
        model = dinov2()
        plain = run(model, images)
        with pytest.raises(KeyError), packed_weights(model):
            raise KeyError
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.equal(run(model, images), plain)

    def test_gradients_are_refused_instead_of_being_lost(self, images):
        model = dinov2()
        with packed_weights(model), pytest.raises(RuntimeError, match="for inference"):
            model(pixel_values=images)

    def test_state_is_untouched(self, images):
        model = dinov2()
        names = list(model.state_dict())
        with packed_weights(model):
            assert list(model.state_dict()) == names


class TestLayersThatStay:
    def test_in_a_type_without_products(self):
        linear = nn.Linear(8, 4).double()
        with packed_weights(linear):
            assert num_packed(linear) == 0

    def test_elsewhere(self):
        linear = nn.Linear(8, 4, device="meta")
        with packed_weights(linear):
            assert num_packed(linear) == 0

    def test_with_a_forward_of_somebody_else(self):
        linear = nn.Linear(8, 4)
        linear.forward = lambda x: x
        with packed_weights(linear):
            assert linear(1) == 1
        assert linear.forward(1) == 1

    def test_of_another_kind(self):
        class Special(nn.Linear):
            pass

        linear = Special(8, 4)
        with packed_weights(linear):
            assert num_packed(linear) == 0

    def test_on_another_processor(self, monkeypatch):
        monkeypatch.setattr(packed_product.platform, "machine", lambda: "aarch64")
        linear = nn.Linear(8, 4)
        with packed_weights(linear):
            assert num_packed(linear) == 0
