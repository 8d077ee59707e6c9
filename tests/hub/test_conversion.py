"""Official checkpoints become PEFT models with the same numbers, on their own backbone or on a given one."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from selavpr_peft.errors import BackboneMismatchError, CheckpointError, UnsupportedBackboneError
from selavpr_peft.hub import convert_official_checkpoint
from tests import reference
from tests.hub.official_network import official_state, save_official

NETWORKS = {
    "width 48": ({"grid": 5}, 3),
    "width 64, one head by default": ({"width": 64, "grid": 7, "depth": 1}, None),
    "width 128, two heads by default": ({"width": 128, "depth": 1, "grid": 2}, None),
    "width 40, 16x16 table, four registers": ({"width": 40, "grid": 16, "registers": 4}, 5),
    "37x37 table, one register": ({"grid": 37, "registers": 1, "depth": 3}, 4),
    "patch 16": ({"width": 64, "grid": 7, "patch": 16}, 2),
    "patch 16, SwiGLU, registers": ({"width": 64, "grid": 4, "patch": 16, "swiglu": True, "registers": 4}, 4),
    "SwiGLU with another ratio": ({"width": 40, "swiglu": True, "mlp_ratio": 3}, 2),
    "other MLP, adapter and head sizes": ({"mlp_ratio": 2, "adapter_width": 5, "local_channels": (7, 3)}, 6),
    "no bias of query, key and value": ({"qkv_bias": False, "depth": 1}, 3),
    "as many patches as the table, not square": ({"grid": 6, "depth": 1}, 3),
}
"""Name -> settings of `official_state` and the number of heads to pass."""

GRIDS = [(1, 1), (1, 3), (4, 9), (5, 5), (7, 2)]
"""Patch grids of the images, rows and columns."""


def random_images(rows, columns, patch, count=2):
    return torch.randn(count, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(rows))


def run(model, pixels):
    with torch.inference_mode():
        return model(pixel_values=pixels)


def assert_outputs_equal(output, expected):
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.global_descriptors, expected.global_descriptors)
    assert torch.equal(output.local_features, expected.local_features)


def backbone_of(checkpoint):
    """The frozen part alone, as a user would have it from elsewhere: a plain Hugging Face model."""
    return convert_official_checkpoint(checkpoint, num_attention_heads=3).unload()


class TestTheNumbers:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize(("settings", "heads"), NETWORKS.values(), ids=NETWORKS)
    def test_equal_those_of_the_paper_in_plain_code(self, tmp_path, settings, heads, attention):
        state = official_state(**settings)
        patch = state["backbone.patch_embed.proj.weight"].shape[-1]
        model = convert_official_checkpoint(save_official(tmp_path / "a.pth", state), num_attention_heads=heads)
        model.get_base_model().set_attn_implementation(attention)
        for rows, columns in GRIDS:
            pixels = random_images(rows, columns, patch)
            output = run(model, pixels)
            expected = reference.official_network(state, pixels, heads or state["backbone.cls_token"].shape[-1] // 64)
            tokens = output.last_hidden_state[:, -rows * columns :].double()
            torch.testing.assert_close(tokens, expected[0], atol=5e-5, rtol=1e-5)
            torch.testing.assert_close(output.global_descriptors.double(), expected[1], atol=1e-5, rtol=0)
            torch.testing.assert_close(output.local_features.double(), expected[2], atol=5e-5, rtol=0)

    def test_show_a_wrong_number_of_heads(self, tmp_path, state, checkpoint, pixels):
        output = run(convert_official_checkpoint(checkpoint, num_attention_heads=4), pixels)
        expected = reference.official_network(state, pixels, 3)
        assert (output.global_descriptors - expected[1]).abs().max() > 1e-3


class TestTheModel:
    def test_is_ready_for_use(self, checkpoint):
        model = convert_official_checkpoint(checkpoint, num_attention_heads=3)
        assert not any(module.training for module in model.modules())
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}

    def test_has_the_settings_of_the_official_code(self, checkpoint):
        config = convert_official_checkpoint(checkpoint, num_attention_heads=3).active_peft_config
        assert (config.parallel_scale, config.gem_eps) == (0.2, 1e-6)
        assert (config.position_interpolation, config.resize) == ("official", "official")
        assert (config.bottleneck_ratio, config.local_channels, config.gem_p) == (0.5, (12, 8), 2.5)
        assert (config.backbone_num_layers, config.backbone_hidden_size, config.backbone_patch_size) == (2, 48, 14)

    @pytest.mark.parametrize(
        ("settings", "expected"), [({}, Dinov2Model), ({"registers": 4}, Dinov2WithRegistersModel)]
    )
    def test_is_built_on_the_class_that_its_registers_ask_for(self, tmp_path, settings, expected):
        path = save_official(tmp_path / "a.pth", official_state(**settings))
        assert type(convert_official_checkpoint(path, num_attention_heads=3).get_base_model()) is expected

    def test_takes_the_name_it_is_given(self, checkpoint, pixels):
        named = convert_official_checkpoint(checkpoint, num_attention_heads=3, adapter_name="msls")
        assert list(named.peft_config) == ["msls"]
        assert named.active_adapter == "msls"
        assert_outputs_equal(
            run(named, pixels), run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        )

    @pytest.mark.parametrize("settings", [{}, {"registers": 2}, {"swiglu": True}, {"registers": 1, "swiglu": True}])
    def test_holds_every_official_number_once_and_nothing_else(self, tmp_path, settings):
        state = official_state(width=16, **settings)
        start = 1
        for name, tensor in state.items():  # all numbers of the network are made different: 1, 2, 3, ... / 1024
            state[name] = (torch.arange(start, start + tensor.numel()) / 1024).view_as(tensor)
            start += tensor.numel()
        assert start < 2**24  # float32 tells them apart
        model = convert_official_checkpoint(save_official(tmp_path / "a.pth", state), num_attention_heads=2)
        held = torch.cat([tensor.flatten() for tensor in model.state_dict().values()]).sort().values
        assert torch.equal(held, torch.arange(1, start) / 1024)

    @pytest.mark.parametrize("adapter_width", [1, 2, 29, 57, 97, 98])
    def test_keeps_adapter_widths_that_no_simple_ratio_gives(self, tmp_path, adapter_width):
        path = save_official(
            tmp_path / "a.pth", official_state(width=98, depth=1, grid=1, adapter_width=adapter_width)
        )
        config = convert_official_checkpoint(path, num_attention_heads=7).active_peft_config
        assert config.adapter_width(98) == adapter_width

    def test_reads_a_state_dict_without_what_surrounds_it(self, tmp_path, state, checkpoint, pixels):
        torch.save(state, tmp_path / "state.pth")
        save_file(state, tmp_path / "state.safetensors")
        save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "parallel.safetensors")
        expected = run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        for name in ("state.pth", "state.safetensors", "parallel.safetensors"):
            model = convert_official_checkpoint(str(tmp_path / name), num_attention_heads=3)
            assert_outputs_equal(run(model, pixels), expected)

    def test_does_not_need_the_mask_token(self, tmp_path, state, checkpoint, pixels):
        expected = run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        del state["backbone.mask_token"]
        model = convert_official_checkpoint(save_official(tmp_path / "a.pth", state), num_attention_heads=3)
        assert_outputs_equal(run(model, pixels), expected)
        assert not model.get_base_model().embeddings.mask_token.any()


class TestTheNumberOfHeads:
    def test_cannot_be_derived_from_a_width_that_is_no_multiple_of_64(self, checkpoint):
        with pytest.raises(ValueError, match=r"num_attention_heads cannot be derived for width 48.*Pass num_att"):
            convert_official_checkpoint(checkpoint)

    @pytest.mark.parametrize("heads", [5, 0, -3, 96])
    def test_must_divide_the_width(self, checkpoint, heads):
        with pytest.raises(ValueError, match=f"num_attention_heads must divide the width 48, got {heads}"):
            convert_official_checkpoint(checkpoint, num_attention_heads=heads)

    def test_zero_is_not_taken_for_none(self, tmp_path):
        path = save_official(tmp_path / "a.pth", official_state(width=64, depth=1))
        with pytest.raises(ValueError, match="got 0"):
            convert_official_checkpoint(path, num_attention_heads=0)

    def test_is_taken_from_a_given_backbone(self, checkpoint):
        model = convert_official_checkpoint(checkpoint, backbone=backbone_of(checkpoint))
        assert model.get_base_model().config.num_attention_heads == 3

    def test_may_repeat_that_of_a_given_backbone(self, checkpoint):
        model = convert_official_checkpoint(checkpoint, backbone=backbone_of(checkpoint), num_attention_heads=3)
        assert model.get_base_model().config.num_attention_heads == 3

    def test_may_not_contradict_a_given_backbone(self, checkpoint):
        with pytest.raises(ValueError, match="num_attention_heads is 6, but the backbone has 3"):
            convert_official_checkpoint(checkpoint, backbone=backbone_of(checkpoint), num_attention_heads=6)


class TestAGivenBackbone:
    def test_is_used_itself(self, checkpoint, pixels):
        backbone = backbone_of(checkpoint)
        before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in backbone.state_dict().items()}
        model = convert_official_checkpoint(checkpoint, backbone=backbone)
        assert model.get_base_model() is backbone
        after = {name.replace(".base_layer", ""): tensor for name, tensor in backbone.state_dict().items()}
        for name, (address, tensor) in before.items():
            assert after[name].data_ptr() == address
            assert torch.equal(after[name], tensor)
        assert {name for name in after if name not in before} == {name for name in after if ".sela_" in name}
        assert_outputs_equal(
            run(model, pixels), run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        )

    def test_may_be_a_folder(self, tmp_path, checkpoint, pixels):
        backbone_of(checkpoint).save_pretrained(tmp_path / "backbone")
        expected = run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        for name in (tmp_path / "backbone", str(tmp_path / "backbone")):
            model = convert_official_checkpoint(checkpoint, backbone=name)
            assert_outputs_equal(run(model, pixels), expected)
            assert model.active_peft_config.base_model_name_or_path == str(name)

    @pytest.mark.parametrize("settings", [{"registers": 2}, {"swiglu": True, "mlp_ratio": 2}])
    def test_that_differs_in_one_tensor_is_refused_by_the_name_of_that_tensor(self, tmp_path, settings):
        state = official_state(depth=1, grid=2, **settings)
        path = save_official(tmp_path / "a.pth", state)
        backbone = backbone_of(path)
        frozen = [name for name in state if name.startswith("backbone.") and ".adapter" not in name]
        frozen.remove("backbone.mask_token")
        assert len(frozen) >= 18
        for name in frozen:
            changed = dict(state)
            changed[name] = state[name].clone()
            changed[name].view(-1)[-1] += 1e-3
            save_official(path, changed)
            with pytest.raises(BackboneMismatchError) as caught:
                convert_official_checkpoint(path, backbone=backbone)
            assert differing_tensors(caught) == (1, [name])

    def test_with_one_swapped_pair_of_query_and_key_is_refused(self, tmp_path, state, checkpoint):
        backbone = backbone_of(checkpoint)
        query, key, value = state["backbone.blocks.1.attn.qkv.weight"].chunk(3)
        state["backbone.blocks.1.attn.qkv.weight"] = torch.cat((key, query, value))
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(save_official(checkpoint, state), backbone=backbone)
        assert differing_tensors(caught) == (1, ["backbone.blocks.1.attn.qkv.weight"])

    def test_with_a_nan_is_refused(self, checkpoint):
        backbone = backbone_of(checkpoint)
        with torch.no_grad():
            backbone.layernorm.bias[0] = torch.nan
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(checkpoint, backbone=backbone)
        assert differing_tensors(caught) == (1, ["backbone.norm.bias"])

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            ({"grid": 6}, "backbone.pos_embed"),
            ({"patch": 16}, "backbone.patch_embed.proj.weight"),
            ({"registers": 3}, "backbone.register_tokens"),
        ],
        ids=["grid", "patch size", "registers"],
    )
    def test_of_another_make_is_refused_by_the_tensor_that_shows_it(self, tmp_path, state, checkpoint, other, named):
        different = official_state(**other)
        different |= {name: tensor for name, tensor in state.items() if name != named}
        backbone = backbone_of(save_official(tmp_path / "other.pth", different))
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(checkpoint, backbone=backbone)
        assert differing_tensors(caught) == (1, [named])

    @pytest.mark.parametrize(
        ("other", "count", "named"),
        [
            ({"depth": 1}, 14, "backbone.blocks.1."),  # norms 4, qkv 2, projection 2, scales 2, MLP 4
            ({"depth": 3}, 18, "encoder.layer.2."),  # as before, with query, key and value apart
            ({"width": 24}, 34, "backbone."),  # two blocks and CLS token, positions, patches 2, norm 2
            ({"swiglu": True}, 16, "backbone.blocks.0.mlp."),  # two blocks with 4 tensors on either side
        ],
        ids=["fewer blocks", "more blocks", "width", "SwiGLU"],
    )
    def test_of_another_depth_or_width_is_refused(self, tmp_path, state, checkpoint, other, count, named):
        different = official_state(**other)
        if "width" not in other:
            different |= {name: state[name] for name in different if name in state}
        backbone = backbone_of(save_official(tmp_path / "other.pth", different))
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(checkpoint, backbone=backbone)
        found, names = differing_tensors(caught)
        assert found == count
        assert len(names) == 8  # the first eight are named
        assert all(name.startswith(named) for name in names)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_in_half_precision_equals_the_file_within_its_rounding(self, checkpoint, pixels, dtype):
        backbone = backbone_of(checkpoint).to(dtype)
        model = convert_official_checkpoint(checkpoint, backbone=backbone)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype, torch.float32}
        output = run(model, pixels)
        expected = run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        assert output.global_descriptors.dtype == torch.float32
        assert (output.global_descriptors * expected.global_descriptors).sum(-1).min() > 0.999

    @pytest.mark.parametrize(("dtype", "factor"), [(torch.bfloat16, 1.05), (torch.float16, 1.01)])
    def test_in_half_precision_is_refused_beyond_its_rounding(self, checkpoint, dtype, factor):
        backbone = backbone_of(checkpoint).to(dtype)
        with torch.no_grad():
            backbone.encoder.layer[1].mlp.fc2.weight *= factor
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(checkpoint, backbone=backbone)
        assert differing_tensors(caught) == (1, ["backbone.blocks.1.mlp.fc2.weight"])

    def test_with_whole_numbers_for_weights_is_refused(self, checkpoint):
        backbone = backbone_of(checkpoint)
        linear = backbone.encoder.layer[0].mlp.fc1
        linear.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
        with pytest.raises(BackboneMismatchError) as caught:
            convert_official_checkpoint(checkpoint, backbone=backbone)
        assert differing_tensors(caught) == (1, ["backbone.blocks.0.mlp.fc1.weight"])

    @pytest.mark.parametrize("in_file", ["random", "zero", "none"])
    @pytest.mark.parametrize("in_backbone", ["random", "zero", "none"])
    def test_may_have_any_mask_token_which_plays_no_part(
        self, tmp_path, state, checkpoint, pixels, in_file, in_backbone
    ):
        expected = run(convert_official_checkpoint(checkpoint, num_attention_heads=3), pixels)
        backbone = backbone_of(checkpoint)
        if in_backbone == "zero":
            nn.init.zeros_(backbone.embeddings.mask_token)
        if in_backbone == "none":
            backbone.embeddings.mask_token = None  # as with use_mask_token=False
        if in_file == "zero":
            state["backbone.mask_token"] = torch.zeros(1, 48)
        if in_file == "none":
            del state["backbone.mask_token"]
        model = convert_official_checkpoint(save_official(tmp_path / "a.pth", state), backbone=backbone)
        assert_outputs_equal(run(model, pixels), expected)

    @pytest.mark.parametrize("kind", ["linear", "vit", "classifier"])
    def test_of_an_unknown_kind_is_refused_as_such(self, checkpoint, kind):
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28}
        models = {
            "linear": lambda: nn.Linear(2, 2),
            "vit": lambda: ViTModel(ViTConfig(intermediate_size=32, patch_size=14, **small)),
            "classifier": lambda: Dinov2ForImageClassification(Dinov2Config(patch_size=14, **small)),
        }
        with pytest.raises(UnsupportedBackboneError, match="pass that part" if kind == "classifier" else "Load one"):
            convert_official_checkpoint(checkpoint, backbone=models[kind]())

    def test_goes_back_as_it_came_when_the_adapter_does_not_fit(self, tmp_path, state, checkpoint, pixels):
        backbone = backbone_of(checkpoint)
        before = run(backbone, pixels)
        names = list(backbone.state_dict())
        state["LocalAdapt.upconv2.bias"] = torch.zeros(9)
        with pytest.raises(CheckpointError, match=r"LocalAdapt.upconv2.bias must have shape \(8,\)"):
            convert_official_checkpoint(save_official(tmp_path / "a.pth", state), backbone=backbone)
        assert list(backbone.state_dict()) == names
        after = run(backbone, pixels)
        assert type(after) is type(before)
        assert torch.equal(after.last_hidden_state, before.last_hidden_state)

    def test_that_does_not_exist_is_named(self, tmp_path, checkpoint):
        with pytest.raises((OSError, ValueError), match="no-such-backbone"):
            convert_official_checkpoint(checkpoint, backbone=tmp_path / "no-such-backbone")


def differing_tensors(caught):
    """Read number and names of the tensors out of the message."""
    match = re.search(r"frozen part in (\d+) tensors: (.*?)\. Name the backbone", str(caught.value))
    return int(match[1]), match[2].removesuffix(", ...").split(", ")
