"""PEFT models become official checkpoints: the same numbers back, or an error that says what the format lacks."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from selavpr_peft import SelaConfig
from selavpr_peft.hub import convert_official_checkpoint, export_official_checkpoint
from tests import reference
from tests.hub.official_network import official_state, save_official


def run(model, pixels):
    with torch.inference_mode():
        return model(pixel_values=pixels)


def read(path):
    return torch.load(path, weights_only=True)


def written_state(path):
    return {name.removeprefix("module."): tensor for name, tensor in read(path)["model_state_dict"].items()}


def adapted(backbone, **settings):
    """An adapter none of whose numbers is zero, so that each part matters."""
    settings = {"position_interpolation": "official", "local_channels": (8, 6)} | settings
    model = get_peft_model(backbone, SelaConfig(**settings)).eval()
    randomise(model)
    return model


def randomise(model, seed=2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sela_" in name and "gem_p" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture
def backbone(tiny_backbone):
    return tiny_backbone


class TestRoundTrip:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"registers": 4, "grid": 3}, {"swiglu": True}, {"patch": 16, "qkv_bias": False}, {"adapter_width": 7}],
        ids=["plain", "registers", "SwiGLU", "no qkv bias", "adapter width"],
    )
    def test_of_a_file_gives_the_same_tensors_under_the_same_names(self, tmp_path, settings):
        state = official_state(**settings)
        path = save_official(tmp_path / "first.pth", state)
        first = convert_official_checkpoint(path, num_attention_heads=3)
        export_official_checkpoint(first, tmp_path / "second.pth")
        assert_same_tensors(written_state(tmp_path / "second.pth"), state)
        second = convert_official_checkpoint(tmp_path / "second.pth", num_attention_heads=3)
        assert_same_tensors(second.state_dict(), first.state_dict())
        assert second.active_peft_config == first.active_peft_config

    def test_of_a_model_gives_the_same_outputs(self, tmp_path, backbone, images):
        model = adapted(backbone)
        export_official_checkpoint(model, tmp_path / "a.pth")
        back = run(convert_official_checkpoint(tmp_path / "a.pth", num_attention_heads=2), images)
        expected = run(model, images)
        assert torch.equal(back.last_hidden_state, expected.last_hidden_state)
        assert torch.equal(back.global_descriptors, expected.global_descriptors)
        assert torch.equal(back.local_features, expected.local_features)


class TestTheFile:
    def test_loads_without_running_code_and_holds_what_the_official_script_resumes_from(self, tmp_path, backbone):
        export_official_checkpoint(adapted(backbone), str(tmp_path / "a.pth"))
        checkpoint = read(tmp_path / "a.pth")
        state = checkpoint.pop("model_state_dict")
        assert checkpoint == {
            "epoch_num": 0,
            "optimizer_state_dict": {},
            "recalls": [],
            "best_r5": 0.0,
            "not_improved_num": 0,
        }
        assert [type(value) for value in checkpoint.values()] == [int, dict, list, float, int]
        assert all(type(tensor) is torch.Tensor and tensor.dtype == torch.float32 for tensor in state.values())
        assert all(name.startswith("module.") for name in state)

    def test_says_what_the_model_computes_in_the_papers_own_terms(self, tmp_path, backbone, images):
        model = adapted(backbone, gem_p=2.2, bottleneck_ratio=0.3)
        export_official_checkpoint(model, tmp_path / "a.pth")
        _, descriptors, features = reference.official_network(written_state(tmp_path / "a.pth"), images, 2)
        output = run(model, images)
        torch.testing.assert_close(output.global_descriptors.double(), descriptors, atol=1e-5, rtol=0)
        torch.testing.assert_close(output.local_features.double(), features, atol=5e-5, rtol=0)

    def test_holds_the_active_adapter(self, tmp_path, backbone, images):
        model = adapted(backbone)
        model.add_adapter("night", SelaConfig(position_interpolation="official", local_channels=(4, 4)))
        model.set_adapter("night")
        randomise(model, seed=9)
        export_official_checkpoint(model, tmp_path / "night.pth")
        back = convert_official_checkpoint(tmp_path / "night.pth", num_attention_heads=2)
        assert back.active_peft_config.local_channels == (4, 4)
        assert torch.equal(run(back, images).global_descriptors, run(model.eval(), images).global_descriptors)

    def test_of_a_half_precision_backbone_is_float32_all_the_same(self, tmp_path, backbone):
        model = adapted(backbone.to(torch.bfloat16))
        export_official_checkpoint(model, tmp_path / "a.pth")
        state = written_state(tmp_path / "a.pth")
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert torch.equal(state["backbone.norm.weight"], backbone.layernorm.weight.float())

    def test_has_a_mask_token_also_where_the_backbone_has_none(self, tmp_path):
        config = Dinov2Config(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=28, use_mask_token=False
        )
        export_official_checkpoint(adapted(Dinov2Model(config)), tmp_path / "a.pth")
        assert torch.equal(written_state(tmp_path / "a.pth")["backbone.mask_token"], torch.zeros(1, 32))


class TestSwitchedOffAdapters:
    @pytest.mark.parametrize(
        ("settings", "absent"),
        [
            ({"use_serial_adapter": False}, ["0.adapter1", "1.adapter1"]),
            ({"use_parallel_adapter": False}, ["0.adapter2", "1.adapter2"]),
            ({"target_modules": ["mlp"]}, ["0.adapter1", "1.adapter1"]),
            ({"layers_to_transform": [1]}, ["0.adapter1", "0.adapter2"]),
            ({"layers_to_transform": 0, "target_modules": ["attention"]}, ["0.adapter2", "1.adapter1", "1.adapter2"]),
        ],
    )
    def test_are_written_with_a_zero_w2_and_change_nothing(self, tmp_path, backbone, images, settings, absent):
        model = adapted(backbone, **settings)
        export_official_checkpoint(model, tmp_path / "a.pth")
        state = written_state(tmp_path / "a.pth")
        for adapter in ("0.adapter1", "0.adapter2", "1.adapter1", "1.adapter2"):
            up = state[f"backbone.blocks.{adapter}.D_fc2.weight"], state[f"backbone.blocks.{adapter}.D_fc2.bias"]
            assert any(tensor.any() for tensor in up) != (adapter in absent)
        back = convert_official_checkpoint(tmp_path / "a.pth", num_attention_heads=2)
        assert torch.equal(run(back, images).last_hidden_state, run(model, images).last_hidden_state)
        assert torch.equal(run(back, images).local_features, run(model, images).local_features)


class TestWhatTheFormatCannotSay:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"parallel_scale": 0.3}, "has parallel_scale 0.2 built in, got 0.3"),
            ({"gem_eps": 1e-5}, "has gem_eps 1e-06 built in, got 1e-05"),
            ({"use_local_head": False}, "has use_local_head True built in, got False"),
        ],
    )
    def test_of_the_adapter(self, tmp_path, backbone, settings, message):
        with pytest.raises(ValueError, match=message):
            export_official_checkpoint(adapted(backbone, **settings), tmp_path / "a.pth")
        assert not (tmp_path / "a.pth").exists()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"layer_norm_eps": 1e-5}, "has layer_norm_eps 1e-06 built in, got 1e-05"),
            ({"hidden_act": "relu"}, "has hidden_act gelu built in, got relu"),
        ],
    )
    def test_of_the_backbone(self, tmp_path, settings, message):
        config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=28, **settings)
        with pytest.raises(ValueError, match=message):
            export_official_checkpoint(adapted(Dinov2Model(config)), tmp_path / "a.pth")

    def test_an_adapter_of_another_method(self, tmp_path, backbone):
        model = get_peft_model(backbone, LoraConfig(target_modules=["fc1"]))
        with pytest.raises(TypeError, match="must be a PEFT model with a SelaVPR adapter, got .* with LoraConfig"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_another_family(self, tmp_path):
        config = DINOv3ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
        model = adapted(DINOv3ViTModel(config), position_interpolation="backbone")
        with pytest.raises(ValueError, match="knows DINOv2 backbones, got DINOv3ViTModel"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_whole_numbers_for_weights(self, tmp_path, backbone):
        model = adapted(backbone)
        linear = backbone.encoder.layer[1].mlp.fc1
        linear.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
        with pytest.raises(ValueError, match=r"layer.1.mlp.fc1.weight is quantised \(torch.int8\).*in a float type"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_weights_of_a_quantised_kind(self, tmp_path, backbone):
        class Quantised(torch.Tensor):
            """Stands for the tensor classes of quantisation libraries, which call themselves float."""

        model = adapted(backbone)
        state = {name: tensor.as_subclass(Quantised) for name, tensor in backbone.state_dict().items()}
        backbone.state_dict = lambda: state
        with pytest.raises(ValueError, match=r"is quantised \(torch.float32\)"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_positions_of_the_backbones_own_rule_on_a_grid_that_has_to_be_resized(self, tmp_path, backbone):
        model = adapted(backbone, position_interpolation="backbone")  # made for 224 x 224, the table is 5 x 5
        with pytest.raises(ValueError, match=r"position_interpolation='backbone'.*Train with 'official'"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    @pytest.mark.parametrize("size", [(70, 84), (28, 70), (56, 56)])
    def test_nor_may_the_size_be_another_than_the_tables(self, tmp_path, backbone, size):
        model = adapted(backbone, position_interpolation="backbone", image_size=size)
        with pytest.raises(ValueError, match="position_interpolation"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_nor_may_a_size_have_as_many_patches_without_being_square(self, tmp_path):
        config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=84)  # 6 x 6
        model = adapted(Dinov2Model(config), position_interpolation="backbone", image_size=(56, 126))  # 4 x 9
        with pytest.raises(ValueError, match="position_interpolation"):
            export_official_checkpoint(model, tmp_path / "a.pth")

    def test_but_at_the_size_of_the_table_both_rules_agree(self, tmp_path, backbone):
        model = adapted(backbone, position_interpolation="backbone", image_size=(70, 70))
        pixels = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
        export_official_checkpoint(model, tmp_path / "a.pth")
        back = convert_official_checkpoint(tmp_path / "a.pth", num_attention_heads=2)
        assert torch.equal(run(back, pixels).global_descriptors, run(model, pixels).global_descriptors)


class TestAFailure:
    def test_while_writing_keeps_the_old_file_and_leaves_nothing_else(self, tmp_path, backbone, monkeypatch):
        path = tmp_path / "a.pth"
        path.write_bytes(b"old")

        def fail(checkpoint, file):
            file.write_bytes(b"half of the new")
            raise OSError("no space left on device")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            export_official_checkpoint(adapted(backbone), path)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]

    def test_of_the_check_does_not_touch_the_old_file(self, tmp_path, backbone):
        path = tmp_path / "a.pth"
        path.write_bytes(b"old")
        with pytest.raises(ValueError, match="parallel_scale"):
            export_official_checkpoint(adapted(backbone, parallel_scale=1.0), path)
        assert path.read_bytes() == b"old"


def assert_same_tensors(ours, expected):
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
