"""`selavpr_peft.load` from folders: everything belongs together, or the message says what to do."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import selavpr_peft
from selavpr_peft.errors import BackboneMismatchError, CheckpointError, HubError
from selavpr_peft.hub import add_adapter, save_adapter
from selavpr_peft.hub.backbone_identity import identify_backbone
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint, backbone_fingerprint
from tests.hub.published import adapted

PIXELS = torch.randn(1, 3, 56, 84, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def backbone(tmp_path):
    toy_backbone(num_layers=2).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def model(backbone):
    model = adapted()
    model.peft_config["default"].base_model_name_or_path = str(backbone)
    return model


@pytest.fixture
def adapter(model, tmp_path):
    save_adapter(model, tmp_path / "city")
    return tmp_path / "city"


def edit_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def describe(model):
    with torch.inference_mode():
        return model(pixel_values=PIXELS)


class TestLoad:
    def test_gives_the_model_that_was_saved_in_evaluation_mode(self, model, adapter):
        loaded = selavpr_peft.load(adapter)
        assert not loaded.training
        assert torch.equal(describe(loaded).global_descriptors, describe(model).global_descriptors)
        assert torch.equal(describe(loaded).local_features, describe(model).local_features)
        assert Preprocessing.of(loaded.active_peft_config) == Preprocessing(image_size=(56, 84))

    def test_takes_a_backbone_by_name_or_loaded(self, adapter, backbone):
        edit_config(adapter, base_model_name_or_path="me/moved-away")
        by_name = selavpr_peft.load(adapter, backbone=backbone)
        given = selavpr_peft.load(adapter, backbone=toy_backbone(num_layers=2))
        assert torch.equal(describe(by_name).global_descriptors, describe(given).global_descriptors)

    def test_a_backbone_that_is_not_where_the_adapter_says_is_asked_for(self, adapter, backbone):
        moved = backbone.rename(backbone.with_name("elsewhere"))
        with pytest.raises(OSError, match=r"backbone cannot be loaded: .* if it is elsewhere now, say where by back"):
            selavpr_peft.load(adapter)
        assert selavpr_peft.load(adapter, backbone=moved)

    def test_asks_for_the_backbone_where_the_adapter_names_none(self, adapter):
        edit_config(adapter, base_model_name_or_path=None)
        with pytest.raises(ValueError, match=r"does not name the backbone.*backbone="):
            selavpr_peft.load(adapter)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_refuses_other_weights_of_the_same_shape_in_any_type(self, adapter, tmp_path, dtype):
        toy_backbone(num_layers=2, seed=1).save_pretrained(tmp_path / "other")
        with pytest.raises(BackboneMismatchError, match=r"other has other weights than .* Load that backbone"):
            selavpr_peft.load(adapter, backbone=tmp_path / "other", dtype=dtype)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_loads_the_backbone_in_another_type_than_it_was_trained_in(self, adapter, dtype):
        loaded = selavpr_peft.load(adapter, dtype=dtype)
        assert loaded.base_model.model.embeddings.cls_token.dtype == dtype
        assert {tensor.dtype for name, tensor in loaded.named_parameters() if ".sela_" in name} == {torch.float32}

    def test_an_adapter_trained_in_bfloat16_knows_its_backbone_in_float32(self, backbone, tmp_path):
        model = adapted(backbone=toy_backbone(num_layers=2).bfloat16())
        save_adapter(model, tmp_path / "city")
        assert model.active_peft_config.backbone_fingerprint.startswith("bfloat16:")
        selavpr_peft.load(tmp_path / "city", backbone=backbone)
        toy_backbone(num_layers=2, seed=1).save_pretrained(tmp_path / "other")
        with pytest.raises(BackboneMismatchError):
            selavpr_peft.load(tmp_path / "city", backbone=tmp_path / "other")

    def test_says_that_coarser_weights_cannot_be_compared(self, adapter, caplog):
        selavpr_peft.load(adapter, backbone=toy_backbone(num_layers=2, seed=1).half())
        assert "cannot be told from weights in torch.float16" in caplog.text

    def test_an_adapter_without_the_new_fields_and_files_loads(self, model, backbone, tmp_path):
        model.save_pretrained(tmp_path / "plain")
        config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
        del config["backbone_fingerprint"]
        (tmp_path / "plain" / "adapter_config.json").write_text(json.dumps(config))
        assert not (tmp_path / "plain" / "preprocessor_config.json").exists()
        loaded = selavpr_peft.load(tmp_path / "plain")
        assert adapter_fingerprint(loaded) == adapter_fingerprint(model)

    def test_refuses_files_that_disagree_on_the_preprocessing(self, adapter):
        edit_config(adapter, resize="official")
        with pytest.raises(CheckpointError, match=r"preprocessor_config.json says .*antialias.* but .*official"):
            selavpr_peft.load(adapter)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"peft_type": "LORA"}, r"must be of a SelaVPR adapter .* got 'LORA'"),
            ({"layout_version": 7}, r"layout_version must be 1, got 7.*install one that reads it"),
            ({"backbone_num_layers": 12}, "made for a backbone.* with num_layers 12"),
        ],
    )
    def test_names_what_is_wrong_with_the_settings(self, adapter, change, message):
        edit_config(adapter, **change)
        with pytest.raises(ValueError, match=message):
            selavpr_peft.load(adapter)

    def test_weights_of_something_else_are_refused(self, model, adapter, backbone):
        save_file({"lora_A.weight": torch.zeros(2)}, adapter / "adapter_model.safetensors")
        message = r"adapter_model\.safetensors holds no tensor of a SelaVPR adapter, got \['lora_A\.weight'\]"
        with pytest.raises(CheckpointError, match=message):
            selavpr_peft.load(adapter)
        with pytest.raises(CheckpointError, match=message):
            add_adapter(model, adapter, "other")

    @pytest.mark.parametrize("beside", ["one of the backbone", "all of the backbone"])
    def test_weights_of_something_else_beside_an_adapters_are_refused(self, model, adapter, beside):
        path = adapter / "adapter_model.safetensors"
        weights = {
            f"base_model.model.{name}": tensor + 1 for name, tensor in toy_backbone(num_layers=2).state_dict().items()
        }
        names = list(weights) if beside == "all of the backbone" else ["base_model.model.layernorm.weight"]
        save_file(load_file(path) | {name: weights[name] for name in names}, path)
        message = r"must hold tensors of a SelaVPR adapter alone, got \['base_model\.model\..* replace weights"
        with pytest.raises(CheckpointError, match=message):
            selavpr_peft.load(adapter)
        with pytest.raises(CheckpointError, match=message):
            add_adapter(model, adapter, "other")

    def test_damaged_settings_are_named(self, adapter):
        (adapter / "adapter_config.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"adapter_config.json is damaged"):
            selavpr_peft.load(adapter)

    def test_pickled_weights_are_not_read(self, adapter):
        state = load_file(adapter / "adapter_model.safetensors")
        (adapter / "adapter_model.safetensors").unlink()
        torch.save(state, adapter / "adapter_model.bin")
        with pytest.raises(CheckpointError, match="pickled weights are not read"):
            selavpr_peft.load(adapter)

    def test_what_is_neither_folder_nor_hub_id_is_named(self):
        with pytest.raises(HubError, match="'no/such/folder' is neither a folder .* nor a Hub id"):
            selavpr_peft.load("no/such/folder")

    def test_is_a_lazy_name_of_the_package(self):
        code = "import sys, selavpr_peft; assert 'load' in dir(selavpr_peft); print('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


class TestAddAdapter:
    def test_two_cities_share_a_backbone(self, adapter, tmp_path):
        second = adapted(seed=1)
        save_adapter(second, tmp_path / "second")
        model = selavpr_peft.load(adapter)
        first = describe(model).global_descriptors
        add_adapter(model, tmp_path / "second", "second")
        assert torch.equal(describe(model).global_descriptors, first)
        model.set_adapter("second")
        assert torch.equal(describe(model).global_descriptors, describe(second).global_descriptors)

    def test_an_adapter_of_another_backbone_is_refused(self, adapter, tmp_path):
        save_adapter(adapted(backbone=toy_backbone(num_layers=2, seed=1)), tmp_path / "second")
        model = selavpr_peft.load(adapter)
        with pytest.raises(BackboneMismatchError, match="backbone of the model has other weights"):
            add_adapter(model, tmp_path / "second", "second")
        assert list(model.peft_config) == ["default"]

    def test_a_name_that_is_taken_is_refused_and_its_adapter_stays(self, adapter, tmp_path):
        save_adapter(adapted(seed=1), tmp_path / "second")
        model = selavpr_peft.load(adapter)
        before = describe(model).global_descriptors
        with pytest.raises(ValueError, match="already has an adapter named 'default'; choose another name"):
            add_adapter(model, tmp_path / "second", "default")
        assert torch.equal(describe(model).global_descriptors, before)

    def test_after_an_error_the_name_is_free_again(self, adapter, tmp_path):
        """PEFT makes the adapter, with random weights, before it reads the file."""
        save_adapter(adapted(seed=1), tmp_path / "second")
        path = tmp_path / "second" / "adapter_model.safetensors"
        whole = load_file(path)
        save_file({name: tensor for name, tensor in whole.items() if "gem" not in name}, path)
        model = selavpr_peft.load(adapter)
        before = describe(model).global_descriptors
        with pytest.raises(BackboneMismatchError, match="1 tensors missing"):
            add_adapter(model, tmp_path / "second", "second")
        assert list(model.peft_config) == ["default"]
        assert torch.equal(describe(model).global_descriptors, before)
        save_file(whole, path)
        add_adapter(model, tmp_path / "second", "second")
        model.set_adapter("second")
        assert torch.equal(describe(model).global_descriptors, describe(adapted(seed=1)).global_descriptors)


class TestErrors:
    def test_a_given_backbone_is_plain_again_and_can_be_used(self, tmp_path):
        """PEFT wraps its blocks before it reads the file."""
        save_adapter(adapted(), tmp_path)
        path = tmp_path / "adapter_model.safetensors"
        whole = load_file(path)
        save_file({name: tensor for name, tensor in whole.items() if "gem" not in name}, path)
        backbone = toy_backbone(num_layers=2)
        modules, images = [name for name, _ in backbone.named_modules()], torch.randn(1, 3, 28, 28)
        before = backbone(pixel_values=images).last_hidden_state
        with pytest.raises(BackboneMismatchError, match="1 tensors missing"):
            selavpr_peft.load(tmp_path, backbone=backbone)
        assert [name for name, _ in backbone.named_modules()] == modules
        assert torch.equal(backbone(pixel_values=images).last_hidden_state, before)
        save_file(whole, path)
        loaded = selavpr_peft.load(tmp_path, backbone=backbone)
        assert torch.equal(describe(loaded).global_descriptors, describe(adapted()).global_descriptors)

    def test_adapters_that_a_backbone_has_stay(self, adapter, tmp_path):
        model = selavpr_peft.load(adapter, backbone=toy_backbone(num_layers=2))
        before = describe(model).global_descriptors
        with pytest.raises(ValueError, match="already has an adapter named 'default'"):
            selavpr_peft.load(adapter, backbone=model.get_base_model())
        assert torch.equal(describe(model).global_descriptors, before)


class TestIdentifyBackbone:
    def test_names_type_and_digest(self):
        backbone = toy_backbone(num_layers=1)
        assert identify_backbone(backbone) == f"float32:{backbone_fingerprint(backbone)}"
        assert identify_backbone(backbone.half()).startswith("float16:")

    def test_adapters_do_not_count(self):
        assert identify_backbone(adapted()) == identify_backbone(toy_backbone(num_layers=2))

    def test_is_none_for_weights_of_several_types(self):
        backbone = toy_backbone(num_layers=1)
        backbone.layernorm.half()
        assert identify_backbone(backbone) is None
