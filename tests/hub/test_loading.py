"""Backbones and adapters by name or folder: always the type asked for, and clear errors for what is not there."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTModel,
)

from selavpr_peft import SelaConfig
from selavpr_peft.errors import BackboneMismatchError, CheckpointError, UnsupportedBackboneError
from selavpr_peft.hub import load_adapted_model, load_backbone
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.toy_backbone import toy_backbone

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def run(model, pixels):
    with torch.inference_mode():
        return model(pixel_values=pixels)


def folder_sizes(folder):
    return {file.name: file.stat().st_size for file in folder.iterdir()}


@pytest.fixture
def folder(tmp_path, tiny_backbone):
    """A saved backbone."""
    tiny_backbone.save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def adapter(tmp_path, tiny_backbone):
    """A saved adapter for that backbone, whose numbers are not those of a fresh one."""
    model = adapt_freshly(tiny_backbone, SelaConfig(local_channels=(8, 6)), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    model.save_pretrained(tmp_path / "adapter")
    model.unload()
    return tmp_path / "adapter"


def cut(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


class TestLoadBackbone:
    def test_gives_what_was_saved_ready_for_use(self, folder, tiny_backbone, images):
        for name in (folder, str(folder)):
            backbone = load_backbone(name)
            assert type(backbone) is Dinov2Model
            assert not any(module.training for module in backbone.modules())
            assert torch.equal(run(backbone, images).last_hidden_state, run(tiny_backbone, images).last_hidden_state)

    @pytest.mark.parametrize("wanted", DTYPES)
    @pytest.mark.parametrize("saved", DTYPES)
    def test_gives_the_type_asked_for_whatever_the_file_holds(self, tmp_path, tiny_backbone, saved, wanted):
        tiny_backbone.to(saved).save_pretrained(tmp_path / "backbone")
        backbone = load_backbone(tmp_path / "backbone", dtype=wanted)
        assert {tensor.dtype for tensor in backbone.state_dict().values()} == {wanted}

    def test_gives_float32_unless_asked_otherwise(self, tmp_path, tiny_backbone):
        tiny_backbone.half().save_pretrained(tmp_path / "backbone")
        assert load_backbone(tmp_path / "backbone").dtype == torch.float32

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL)),
            lambda: DINOv3ViTModel(DINOv3ViTConfig(intermediate_size=64, **SMALL)),
        ],
        ids=["registers", "DINOv3"],
    )
    def test_knows_the_other_families(self, tmp_path, make):
        make().save_pretrained(tmp_path / "backbone")
        assert type(load_backbone(tmp_path / "backbone")) is type(make())

    def test_refuses_a_model_that_selavpr_does_not_know(self, tmp_path):
        ViTModel(ViTConfig(intermediate_size=64, **SMALL)).save_pretrained(tmp_path / "vit")
        with pytest.raises(UnsupportedBackboneError, match=r"SelaVPR adapts Dinov2Model.*got ViTModel"):
            load_backbone(tmp_path / "vit")

    @pytest.mark.parametrize("name", ["no-such-folder", "nobody/no-such-backbone"])
    def test_names_what_is_not_there(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises((OSError, ValueError), match=name):
            load_backbone(name)
        with pytest.raises((OSError, ValueError), match=name):
            load_backbone(tmp_path / name)

    @pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.5, 0.999])
    def test_names_the_folder_whose_weights_are_cut_off(self, folder, share):
        cut(folder / "model.safetensors", share)
        with pytest.raises(CheckpointError, match=f"weights of the backbone {folder} cannot be read.*damaged"):
            load_backbone(folder)

    def test_names_the_folder_whose_weights_are_a_pointer_of_git_lfs(self, folder):
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        with pytest.raises(CheckpointError, match=f"weights of the backbone {folder} cannot be read"):
            load_backbone(folder)

    def test_names_the_folder_whose_weights_do_not_fit_its_configuration(self, folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"mlp_ratio": 2}))
        with pytest.raises(CheckpointError, match=f"weights of the backbone {folder} cannot be read"):
            load_backbone(folder)

    def test_does_not_make_up_weights_that_are_missing(self, folder):
        drop(folder / "model.safetensors", "encoder.layer.0.norm1.weight")
        with pytest.raises(CheckpointError, match=rf"{folder} lack 1 tensors \(encoder.layer.0.norm1.weight\)"):
            load_backbone(folder)

    def test_lists_at_most_three_of_the_missing_weights(self, folder):
        drop(folder / "model.safetensors", *(f"encoder.layer.{i}.norm{j}.weight" for i in (0, 1) for j in (1, 2)))
        with pytest.raises(CheckpointError, match=r"lack 4 tensors \((encoder.layer.\d.norm\d.weight, ){3}\.\.\.\)"):
            load_backbone(folder)

    def test_can_do_without_the_mask_token(self, folder, tiny_backbone, images):
        drop(folder / "model.safetensors", "embeddings.mask_token")
        output = run(load_backbone(folder), images)
        assert torch.equal(output.last_hidden_state, run(tiny_backbone, images).last_hidden_state)

    @pytest.mark.real
    def test_reads_real_weights_in_full(self, shared):
        backbone = load_backbone(shared / "weights" / "dinov2-small-saliency")
        assert (backbone.config.hidden_size, backbone.dtype) == (384, torch.float32)


def drop(file, *names):
    """Take tensors out of a file of safetensors."""
    tensors = load_file(file)
    for name in names:
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})


class TestLoadAdaptedModel:
    def test_gives_what_was_saved_ready_for_use(self, folder, adapter, images):
        model = load_adapted_model(folder, adapter)
        assert not any(module.training for module in model.modules())
        saved = load_file(adapter / "adapter_model.safetensors")
        held = model.state_dict()
        for name, tensor in saved.items():
            stem, _, kind = name.rpartition(".")
            full = f"{name}.default" if kind == "sela_gem_p" else f"{stem}.default.{kind}"
            assert torch.equal(held[full], tensor)
        assert run(model, images).local_features.shape == (2, 13, 21, 6)

    def test_takes_names_as_text_too(self, folder, adapter, images):
        expected = run(load_adapted_model(folder, adapter), images)
        output = run(load_adapted_model(str(folder), str(adapter)), images)
        assert torch.equal(output.global_descriptors, expected.global_descriptors)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("is_fresh", [True, False])
    def test_keeps_adapters_in_float32_over_a_backbone_of_the_type_asked_for(self, folder, adapter, dtype, is_fresh):
        model = load_adapted_model(folder, None if is_fresh else adapter, dtype=dtype)
        dtypes = {".sela_" in name: parameter.dtype for name, parameter in model.named_parameters()}
        assert dtypes == {False: dtype, True: torch.float32}

    def test_without_an_adapter_describes_as_the_backbone_does(self, folder, tiny_backbone, images):
        model = load_adapted_model(folder)
        output = run(model, images)
        assert torch.equal(output.last_hidden_state, run(tiny_backbone, images).last_hidden_state)
        assert not any(module.training for module in model.modules())
        assert model.active_peft_config.local_channels == SelaConfig().local_channels

    def test_without_an_adapter_depends_on_the_seed_alone(self, folder, images):
        first, second, other = (run(load_adapted_model(folder, seed=seed), images) for seed in (3, 3, 4))
        assert torch.equal(first.local_features, second.local_features)
        assert not torch.equal(first.local_features, other.local_features)

    @pytest.mark.parametrize("is_trainable", [True, False])
    def test_leaves_a_loaded_adapter_trainable_only_where_asked_to(self, folder, adapter, is_trainable):
        model = load_adapted_model(folder, adapter, is_trainable=is_trainable)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable == {name for name, _ in model.named_parameters() if ".sela_" in name and is_trainable}
        assert not any(module.training for module in model.modules())

    def test_names_an_adapter_that_is_not_there(self, tmp_path, folder, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("no-such-adapter", tmp_path / "no-such-adapter"):
            with pytest.raises((OSError, ValueError), match="no-such-adapter"):
                load_adapted_model(folder, name)

    @pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.5, 0.999])
    def test_names_the_adapter_whose_weights_are_cut_off(self, folder, adapter, share):
        cut(adapter / "adapter_model.safetensors", share)
        with pytest.raises(CheckpointError, match=f"weights of the adapter {adapter} cannot be read.*damaged"):
            load_adapted_model(folder, adapter)

    def test_names_the_backbone_whose_weights_are_cut_off(self, folder, adapter):
        cut(folder / "model.safetensors", 0.5)
        with pytest.raises(CheckpointError, match=f"weights of the backbone {folder}"):
            load_adapted_model(folder, adapter)

    def test_refuses_an_adapter_of_which_a_tensor_is_missing(self, folder, adapter):
        drop(adapter / "adapter_model.safetensors", "base_model.model.vpr_head.sela_gem_p")
        with pytest.raises(BackboneMismatchError, match=r"1 tensors missing \(vpr_head.sela_gem_p"):
            load_adapted_model(folder, adapter)

    def test_refuses_an_adapter_made_for_another_backbone(self, tmp_path, adapter):
        toy_backbone(hidden_size=64, num_layers=2).save_pretrained(tmp_path / "wide")
        with pytest.raises(
            BackboneMismatchError, match=r"made for a backbone.* with hidden_size 32.*has hidden_size 64"
        ):
            load_adapted_model(tmp_path / "wide", adapter)

    def test_leaves_both_folders_as_they_are(self, tmp_path, folder, adapter):
        before = folder_sizes(folder), folder_sizes(adapter)
        load_adapted_model(folder, adapter)
        assert (folder_sizes(folder), folder_sizes(adapter)) == before
        shutil.rmtree(folder)
        with pytest.raises((OSError, ValueError), match="backbone"):
            load_adapted_model(folder, adapter)


class TestAdaptFreshly:
    def test_depends_on_the_seed_alone(self):
        states = []
        for seed, disturbance in ((3, 0), (3, 1), (4, 0)):
            torch.manual_seed(disturbance)
            states.append(adapt_freshly(toy_backbone(num_layers=1), SelaConfig(), seed=seed).state_dict())
        first, second, other = states
        assert all(torch.equal(first[name], second[name]) for name in first)
        random = {name for name in first if not torch.equal(first[name], other[name])}
        assert {name.rpartition(".default")[0].rpartition(".")[2] for name in random} == {
            "sela_down",
            "sela_upconv1",
            "sela_upconv2",
        }

    def test_leaves_the_generators_of_pytorch_alone(self, tiny_backbone, monkeypatch):
        def fail(seed):
            raise AssertionError("a GPU's generator would be changed")

        monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
        before = torch.get_rng_state()
        adapt_freshly(tiny_backbone, SelaConfig(), seed=3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_trains_the_adapter_alone(self, tiny_backbone):
        model = adapt_freshly(tiny_backbone, SelaConfig(), seed=0)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if ".sela_" in name}
        assert not any(module.training for module in model.modules())
