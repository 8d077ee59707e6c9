"""Attention read from a model: right whichever attention runs, and nothing of the model is changed by looking."""

import copy

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

from selavpr_peft import SelaConfig
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.visualization.attention import attention_of_frozen_and_adapted, class_token_attention, patch_shares

SETTINGS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}


def adapted(backbone, scale=0.0):
    """Adapt a backbone whose attention is sharp; with a scale, by an adapter that changes everything."""
    for name, parameter in backbone.named_parameters():
        if name.endswith(("query.weight", "key.weight", "q_proj.weight", "k_proj.weight")):
            parameter.data *= 8  # fresh weights are so small that every patch gets the same attention
    model = get_peft_model(backbone, SelaConfig(local_channels=(8, 4))).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "sela_up." in name:
            parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model


def attention_by_hand(model, pixel_values, num_patches):
    """Compute the last block's softmax(q k / sqrt(d)) from its input, one head and patch after another."""
    backbone = model.get_base_model()
    block = backbone.encoder.layer[-1]
    names = dict(block.named_modules())
    query = next(module for name, module in names.items() if name.endswith(("attention.query", "q_proj")))
    key = next(module for name, module in names.items() if name.endswith(("attention.key", "k_proj")))
    inputs = []
    handle = block.norm1.register_forward_hook(lambda module, arguments, output: inputs.append(output))
    model(pixel_values=pixel_values)
    handle.remove()
    q, k = query(inputs[0])[0], key(inputs[0])[0]  # (T, D), of the first image
    mean = np.zeros(num_patches)
    for head in range(2):
        part = slice(16 * head, 16 * (head + 1))
        logits = np.array([float(q[0, part] @ k[token, part]) / 4 for token in range(len(k))])
        weights = np.exp(logits) / np.exp(logits).sum()
        mean += weights[-num_patches:] / 2
    return mean / mean.sum()


class TestClassTokenAttention:
    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_it_is_the_last_blocks_softmax_computed_by_plain_loops(self, tiny_backbone, images, implementation):
        tiny_backbone.set_attn_implementation(implementation)
        model = adapted(tiny_backbone, scale=0.3)
        with torch.no_grad():
            found = class_token_attention(model, images)
            expected = attention_by_hand(model, images, num_patches=24)
        assert found.shape == (2, 4, 6)
        assert expected.max() > 2 * expected.min()  # there is something to be right about
        np.testing.assert_allclose(found[0].flatten(), expected, rtol=1e-4)

    def test_every_images_shares_add_up_to_one(self, tiny_backbone, images):
        sums = class_token_attention(adapted(tiny_backbone), images).sum(dim=(1, 2))
        torch.testing.assert_close(sums, torch.ones(2))

    def test_blocks_count_from_either_end(self, tiny_backbone, images):
        model = adapted(tiny_backbone)
        first, second = (class_token_attention(model, images, layer=layer) for layer in (0, 1))
        assert not torch.allclose(first, second)
        assert torch.equal(class_token_attention(model, images, layer=-2), first)

    @pytest.mark.parametrize("layer", [2, -3])
    def test_a_block_that_is_not_there_is_refused(self, tiny_backbone, images, layer):
        with pytest.raises(ValueError, match=f"one of the backbone's 2 blocks, counted from 0, got {layer}"):
            class_token_attention(adapted(tiny_backbone), images, layer=layer)

    def test_the_model_is_left_as_it_was(self, tiny_backbone, images):
        model = adapted(tiny_backbone, scale=0.3)
        with torch.no_grad():
            before = model(pixel_values=images).global_descriptors
            class_token_attention(model, images)
            after = model(pixel_values=images).global_descriptors
        assert tiny_backbone.config._attn_implementation == "sdpa"
        assert not any(module._forward_hooks for module in tiny_backbone.encoder.modules())
        assert torch.equal(before, after)

    def test_it_is_left_as_it_was_after_a_failure_too(self, tiny_backbone):
        model = adapted(tiny_backbone)
        with pytest.raises(ValueError, match="multiples of the patch size"):
            class_token_attention(model, torch.zeros(1, 3, 15, 15))
        assert tiny_backbone.config._attn_implementation == "sdpa"
        assert not any(module._forward_hooks for module in tiny_backbone.encoder.modules())

    @pytest.mark.parametrize("name", ["registers", "dinov3"])
    def test_registers_and_rotary_positions_are_no_patches(self, images, name):
        torch.manual_seed(0)
        if name == "registers":
            backbone = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SETTINGS, num_register_tokens=3))
        else:
            config = DINOv3ViTConfig(**SETTINGS, intermediate_size=32, num_register_tokens=3)
            backbone = DINOv3ViTModel(config)
        model = adapted(backbone.eval())
        found = class_token_attention(model, images)
        assert found.shape == (2, 4, 6)
        backbone.set_attn_implementation("eager")
        rows = backbone(pixel_values=images, output_attentions=True).attentions[-1][:, :, 0].detach()
        torch.testing.assert_close(found, patch_shares(rows, 4, 6))

    def test_a_half_precision_backbone_gives_float32(self, tiny_backbone, images):
        model = adapted(copy.deepcopy(tiny_backbone).to(torch.bfloat16))
        found = class_token_attention(model, images.to(torch.bfloat16))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, class_token_attention(adapted(tiny_backbone), images), rtol=0.2, atol=0.01)


class TestPatchShares:
    def test_heads_are_averaged_and_other_tokens_left_out(self):
        # two heads over class token, register and 1 x 2 patches; means of the patches 0.2 and 0.3 -> 0.4 and 0.6
        row = torch.tensor([[[0.4, 0.1, 0.1, 0.4], [0.3, 0.2, 0.3, 0.2]]])
        torch.testing.assert_close(patch_shares(row, 1, 2), torch.tensor([[[0.4, 0.6]]]))


class TestAttentionOfFrozenAndAdapted:
    preprocessing = Preprocessing(image_size=(56, 84))
    picture = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 20).convert("RGB")

    def test_a_fresh_adapter_looks_where_the_frozen_backbone_does(self, tiny_backbone):
        frozen, found = attention_of_frozen_and_adapted(adapted(tiny_backbone), self.preprocessing, self.picture)
        assert frozen.shape == (4, 6)
        np.testing.assert_array_equal(frozen, found)

    def test_an_adapter_that_does_something_changes_only_the_adapted_map(self, tiny_backbone):
        plain, _ = attention_of_frozen_and_adapted(
            adapted(copy.deepcopy(tiny_backbone)), self.preprocessing, self.picture
        )
        model = adapted(tiny_backbone, scale=1.0)
        frozen, found = attention_of_frozen_and_adapted(model, self.preprocessing, self.picture)
        np.testing.assert_array_equal(frozen, plain)
        assert np.abs(found - frozen).max() > 0.01
        assert model(pixel_values=self.preprocessing(self.picture)[None]).global_descriptors is not None  # enabled
