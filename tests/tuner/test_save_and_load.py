"""Saving and loading: what is written comes back bit by bit, on every way PEFT and transformers offer, and a file
that does not fit is refused instead of being loaded in part."""

import json
import shutil

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import AutoPeftModel, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from selavpr_peft import SelaConfig, SelaOutput
from selavpr_peft.errors import BackboneMismatchError

IS_TRANSFORMERS_5 = Version(transformers.__version__) >= Version("5.0.0")
CONFIG = {"local_channels": (8, 4), "gem_p": 2.0, "parallel_scale": 0.5, "gem_eps": 1e-4}


@pytest.fixture(scope="module")
def originals():
    """Folders that hold the backbone and the adapter of each family, and what the two give; made on demand."""
    return {}


@pytest.fixture
def saved(family, originals, fill_adapter, tmp_path, tmp_path_factory):
    """A saved backbone and a saved adapter, of which a test may change the adapter's files."""
    key = (family.model_class, str(family.settings))
    if key not in originals:
        folder = tmp_path_factory.mktemp("original")
        family.make().save_pretrained(str(folder / "backbone"))
        backbone = family.model_class.from_pretrained(str(folder / "backbone"))
        model = fill_adapter(get_peft_model(backbone, SelaConfig(**CONFIG)))
        model.save_pretrained(str(folder / "adapter"))
        originals[key] = folder, model(family.images())
    folder, expected = originals[key]
    shutil.copytree(folder / "adapter", tmp_path / "adapter")
    return Saved(family, folder / "backbone", tmp_path / "adapter", expected)


class Saved:
    def __init__(self, family, backbone_folder, adapter_folder, expected):
        self.family, self.expected, self.images = family, expected, family.images()
        self.backbone_folder = backbone_folder
        self.adapter = str(adapter_folder)
        self.weights = adapter_folder / "adapter_model.safetensors"

    def backbone(self):
        return self.family.model_class.from_pretrained(str(self.backbone_folder))

    def assert_same(self, model):
        """The output is bit by bit that of the model that was saved."""
        output = model(self.images)
        for name in ("last_hidden_state", "pooler_output", "global_descriptors", "local_features"):
            assert torch.equal(output[name], self.expected[name]), name

    def edit(self, change):
        """Rewrite the weights file after `change` has worked on its tensors."""
        tensors = load_file(self.weights)
        change(tensors)
        save_file(tensors, self.weights, metadata={"format": "pt"})


def through_peft_model(saved):
    return PeftModel.from_pretrained(saved.backbone(), saved.adapter)


def through_peft_model_on_meta(saved):
    return PeftModel.from_pretrained(saved.backbone(), saved.adapter, low_cpu_mem_usage=True)


def through_auto_peft_model(saved):
    return AutoPeftModel.from_pretrained(saved.adapter)


def through_backbone_load_adapter(saved):
    backbone = saved.backbone()
    backbone.load_adapter(saved.adapter)
    return backbone


def through_backbone_load_adapter_on_meta(saved):
    backbone = saved.backbone()
    backbone.load_adapter(saved.adapter, low_cpu_mem_usage=True)
    return backbone


def through_auto_model(saved):
    return AutoModel.from_pretrained(saved.adapter)


def through_a_state_dict(saved):
    backbone = saved.backbone()
    backbone.add_adapter(SelaConfig(**CONFIG))
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(saved.weights).items()}
    set_peft_model_state_dict(backbone, state)
    return backbone.eval()


WAYS = [
    through_peft_model,
    through_peft_model_on_meta,
    through_auto_peft_model,
    through_backbone_load_adapter,
    through_backbone_load_adapter_on_meta,
    through_auto_model,
    through_a_state_dict,
]
by_name = {"ids": lambda way: way.__name__}
one_family = pytest.mark.parametrize("family", ["dinov2"], indirect=True)
two_families = pytest.mark.parametrize("family", ["dinov2", "dinov3"], indirect=True)


class TestRoundTrip:
    @pytest.mark.parametrize("load", WAYS, **by_name)
    def test_is_bitwise(self, saved, load):
        saved.assert_same(load(saved))

    @one_family
    @pytest.mark.parametrize("load", WAYS, **by_name)
    def test_leaves_nothing_on_the_meta_device_and_adapters_in_float32(self, saved, load):
        parameters = dict(load(saved).named_parameters())
        assert {parameter.device.type for parameter in parameters.values()} == {"cpu"}
        assert {p.dtype for name, p in parameters.items() if "sela_" in name} == {torch.float32}
        assert sum("sela_" in name for name in parameters) == 2 * 2 * 4 + 4 + 1

    @two_families
    @pytest.mark.parametrize("load", [*WAYS[:2], *WAYS[3:5]], **by_name)
    def test_gives_a_frozen_model_in_evaluation_mode(self, saved, load):
        model = load(saved)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())

    @one_family
    def test_gives_a_trainable_model_where_asked_for(self, saved):
        model = PeftModel.from_pretrained(saved.backbone(), saved.adapter, is_trainable=True)
        assert {"sela_" in name for name, p in model.named_parameters() if p.requires_grad} == {True}
        saved.assert_same(model.eval())

    @one_family
    def test_a_frozen_adapter_stays_frozen_after_being_disabled(self, saved):
        model = through_peft_model(saved)
        with model.disable_adapter():
            assert not isinstance(model(saved.images), SelaOutput)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        saved.assert_same(model)

    def test_may_be_repeated(self, saved, tmp_path):
        through_peft_model(saved).save_pretrained(str(tmp_path / "again"))
        first, again = load_file(saved.weights), load_file(tmp_path / "again" / "adapter_model.safetensors")
        assert list(again) == list(first)
        assert all(torch.equal(again[name], tensor) for name, tensor in first.items())

    def test_of_transformers_writes_the_same_file(self, saved, tmp_path):
        through_backbone_load_adapter(saved).save_pretrained(str(tmp_path / "again"))
        first, again = load_file(saved.weights), load_file(tmp_path / "again" / "adapter_model.safetensors")
        assert sorted(again) == sorted(first)
        assert all(torch.equal(again[name], tensor) for name, tensor in first.items())

    @two_families
    def test_works_as_a_pickle_file_too(self, saved, tmp_path):
        model = through_peft_model(saved)
        model.save_pretrained(str(tmp_path / "pickle"), safe_serialization=False)
        assert (tmp_path / "pickle" / "adapter_model.bin").exists()
        saved.assert_same(PeftModel.from_pretrained(saved.backbone(), str(tmp_path / "pickle")))

    def test_of_an_adapter_without_local_head(self, tiny_backbone, images, fill_adapter, tmp_path):
        model = fill_adapter(get_peft_model(tiny_backbone, SelaConfig(use_local_head=False)))
        expected = model(images)
        model.save_pretrained(str(tmp_path))
        output = PeftModel.from_pretrained(model.unload(), str(tmp_path))(images)
        assert torch.equal(output.global_descriptors, expected.global_descriptors)
        assert output.local_features is None

    def test_of_an_adapter_of_some_blocks(self, tiny_backbone, images, fill_adapter, tmp_path):
        model = fill_adapter(get_peft_model(tiny_backbone, SelaConfig(layers_to_transform=1, target_modules="mlp")))
        expected = model(images)
        model.save_pretrained(str(tmp_path))
        output = PeftModel.from_pretrained(model.unload(), str(tmp_path))(images)
        assert torch.equal(output.global_descriptors, expected.global_descriptors)

    @two_families
    @pytest.mark.parametrize("load", [through_peft_model, through_backbone_load_adapter], **by_name)
    def test_of_a_file_in_bfloat16_gives_float32_adapters(self, saved, load):
        saved.edit(lambda tensors: tensors.update({name: x.bfloat16() for name, x in tensors.items()}))
        model = load(saved)
        weights = {name: parameter for name, parameter in model.named_parameters() if "sela_up." in name}
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


@two_families
class TestMismatch:
    @pytest.fixture(params=[through_peft_model, through_backbone_load_adapter], **by_name)
    def load(self, request):
        return request.param

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_hidden_layers": 3}, "num_layers 2, but this one has num_layers 3"),
            ({"num_hidden_layers": 1}, "num_layers 2, but this one has num_layers 1"),
            ({"hidden_size": 64}, "hidden_size 32, but this one has hidden_size 64"),
            ({"patch_size": 8}, "patch_size (14|16), but this one has patch_size 8"),
            (
                {"num_hidden_layers": 3, "hidden_size": 64},
                "num_layers 2, hidden_size 32, but this one has num_layers 3, hidden_size 64",
            ),
        ],
        ids=str,
    )
    def test_another_backbone_is_refused(self, saved, load, settings, message):
        other = saved.family.make(**settings)
        parameters = {name: parameter.requires_grad for name, parameter in other.named_parameters()}
        saved.backbone = lambda: other
        with pytest.raises(BackboneMismatchError, match=f"made for a backbone.* with {message}; load the backbone"):
            load(saved)
        assert {name: parameter.requires_grad for name, parameter in other.named_parameters()} == parameters

    def test_the_message_names_the_backbone_it_was_made_for(self, saved, load):
        saved.backbone = lambda: saved.family.make(num_hidden_layers=3)
        with pytest.raises(BackboneMismatchError, match=r"made for a backbone \(.*backbone\) with"):
            load(saved)

    def test_an_adapter_does_not_fit_a_smaller_one_added_afresh(self, saved):
        config = SelaConfig.from_pretrained(saved.adapter)
        with pytest.raises(BackboneMismatchError, match="num_layers 2, but this one has num_layers 5"):
            saved.family.make(num_hidden_layers=5).add_adapter(config)


@two_families
class TestIncompleteFile:
    def test_a_missing_tensor_is_refused(self, saved):
        saved.edit(lambda tensors: tensors.pop("base_model.model.vpr_head.sela_gem_p"))
        with pytest.raises(
            BackboneMismatchError, match=r"1 tensors missing \(vpr_head.sela_gem_p.default\); take both files"
        ):
            through_peft_model(saved)

    def test_missing_blocks_are_refused_and_counted(self, saved):
        def drop_second_block(tensors):
            for name in [name for name in tensors if "layer.1." in name]:
                del tensors[name]

        saved.edit(drop_second_block)
        with pytest.raises(BackboneMismatchError, match=r"8 tensors missing \(.*, \.\.\.\)"):
            through_peft_model(saved)

    def test_a_tensor_too_many_is_refused(self, saved):
        name = f"base_model.model.{saved.family.blocks}.2.mlp.sela_up.weight"
        saved.edit(lambda tensors: tensors.update({name: torch.zeros(32, 16)}))
        with pytest.raises(BackboneMismatchError, match=r"1 tensors not expected \(.*layer.2.mlp.sela_up"):
            through_peft_model(saved)

    def test_tensors_of_another_adapter_never_reach_the_model(self, saved):
        """Peft before 0.20 writes them from a model with several adapters, and reads its own files."""
        name = f"base_model.model.{saved.family.blocks}.0.mlp.sela_up.night.weight"
        saved.edit(lambda tensors: tensors.update({name: torch.zeros(32, 16)}))
        if Version(peft.__version__) < Version("0.20"):
            loaded = get_peft_model_state_dict(through_peft_model(saved))
            assert name not in loaded
            assert loaded[name.replace(".night", "")].any()
            return
        with pytest.raises(BackboneMismatchError, match=r"1 tensors not expected \(.*night"):
            through_peft_model(saved)

    def test_a_config_that_asks_for_more_than_the_file_has_is_refused(self, saved, tmp_path):
        config = tmp_path / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_parallel_adapter": False}))
        with pytest.raises(BackboneMismatchError, match="8 tensors not expected"):
            through_peft_model(saved)

    def test_a_tensor_of_the_backbone_is_refused(self, saved):
        """It would replace the frozen weights of a backbone that other adapters share."""
        backbone = saved.backbone()
        name, before = next((name, tensor.clone()) for name, tensor in backbone.state_dict().items())
        saved.edit(lambda tensors: tensors.update({f"base_model.model.{name}": torch.zeros_like(before)}))
        with pytest.raises(BackboneMismatchError, match=rf"1 tensors of the backbone \({name}\)"):
            PeftModel.from_pretrained(backbone, saved.adapter)
        assert torch.equal(backbone.state_dict()[name], before)

    def test_a_tensor_of_another_shape_is_refused_before_any_is_taken(self, saved):
        model = through_peft_model(saved)
        saved.edit(
            lambda tensors: tensors.update(
                {name: tensor.new_zeros(1) for name, tensor in tensors.items() if "upconv2" in name}
                | {name: tensor + 1 for name, tensor in tensors.items() if "sela_down" in name}
            )
        )
        with pytest.raises(BackboneMismatchError, match=r"2 tensors of another shape \(vpr_head.sela_upconv2"):
            model.load_adapter(saved.adapter, adapter_name="default")
        saved.assert_same(model)

    def test_a_state_dict_of_the_backbone_alone_still_loads(self, saved):
        model = through_peft_model(saved)
        weights = {name: tensor for name, tensor in model.get_base_model().state_dict().items() if "sela_" not in name}
        result = model.get_base_model().load_state_dict(weights, strict=False)
        assert not result.unexpected_keys
        assert all("sela_" in name for name in result.missing_keys)
        saved.assert_same(model)

    def test_the_whole_state_dict_of_an_adapted_backbone_loads(self, saved):
        model, twin = through_peft_model(saved), get_peft_model(saved.family.make(seed=9), SelaConfig(**CONFIG))
        twin.load_state_dict(model.state_dict())
        saved.assert_same(twin)

    @pytest.mark.skipif(IS_TRANSFORMERS_5, reason="transformers 5 fills modules without load_state_dict")
    def test_transformers_4_refuses_it_as_well(self, saved):
        saved.edit(lambda tensors: tensors.pop("base_model.model.vpr_head.sela_gem_p"))
        with pytest.raises(BackboneMismatchError, match="1 tensors missing"):
            through_backbone_load_adapter(saved)

    @pytest.mark.skipif(not IS_TRANSFORMERS_5, reason="transformers 4 returns nothing")
    def test_transformers_5_reports_it(self, saved):
        name = f"base_model.model.{saved.family.blocks}.0.mlp.sela_up.weight"
        saved.edit(lambda tensors: tensors.update({name.replace(".0.", ".2."): tensors.pop(name)}))
        report = saved.backbone().load_adapter(saved.adapter)
        assert [name.endswith("layer.0.mlp.sela_up.default.weight") for name in report.missing_keys] == [True]
        assert [name.endswith("layer.2.mlp.sela_up.default.weight") for name in report.unexpected_keys] == [True]


@pytest.mark.parametrize("family", ["dinov3"], indirect=True)
class TestSpellingOfDinov3:
    """Its blocks are `layer.N` in transformers 4 and `model.layer.N` in transformers 5; in our files `layer.N`."""

    def spell_long(self, tensors):
        for name in [name for name in tensors if "layer." in name]:
            tensors[name.replace("base_model.model.", "base_model.model.model.")] = tensors.pop(name)

    def test_our_files_have_the_short_one(self, saved):
        names = [name for name in load_file(saved.weights) if "layer." in name]
        assert len(names) == 16
        assert all(name.startswith("base_model.model.layer.") for name in names)

    @pytest.mark.parametrize("load", WAYS, **by_name)
    def test_a_file_with_the_long_one_loads_bitwise(self, saved, load):
        saved.edit(self.spell_long)
        assert sum(name.startswith("base_model.model.model.layer.") for name in load_file(saved.weights)) == 16
        saved.assert_same(load(saved))

    def test_a_state_dict_taken_from_the_model_has_the_short_one(self, saved):
        model = through_peft_model(saved)
        for state in (get_peft_model_state_dict(model), get_peft_model_state_dict(model.get_base_model())):
            names = {name.removeprefix("base_model.model.") for name in state}
            assert "layer.1.mlp.sela_up.weight" in names
            assert not any(name.startswith("model.") for name in names)
