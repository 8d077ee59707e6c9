"""Several adapters over one backbone: each as if it were alone, one active at a time."""

import warnings

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model

from selavpr_peft import SelaConfig
from selavpr_peft.tuner.layer import SelaLayer

# They differ in every setting that shows in the output.
DAY = {
    "local_channels": (8, 4),
    "bottleneck_ratio": 0.25,
    "parallel_scale": 0.5,
    "gem_p": 2.0,
    "layers_to_transform": [0],
}
NIGHT = {
    "use_local_head": False,
    "bottleneck_ratio": 1.0,
    "gem_p": 4.0,
    "gem_eps": 1e-3,
    "position_interpolation": "official",
    "target_modules": ["mlp"],
}
RAIN = {"local_channels": (6, 5), "use_serial_adapter": False, "layers_to_transform": [1]}
SETTINGS = {"day": DAY, "night": NIGHT, "rain": RAIN}

ALREADY_A_CONFIG = "ignore:Already found a `peft_config` attribute:UserWarning"  # PEFT, on every second adapter


@pytest.fixture
def backbone(families):
    return families["dinov2"].make()


@pytest.fixture
def alone(families, fill_adapter, images):
    """What each adapter gives when it is the only one."""
    outputs = {}
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        model = get_peft_model(families["dinov2"].make(), SelaConfig(**settings), name)
        outputs[name] = fill_adapter(model, name, seed=seed)(images)
    return outputs


@pytest.fixture
def model(backbone, fill_adapter):
    """A model with all three; "day" is active."""
    model = get_peft_model(backbone, SelaConfig(**DAY), "day")
    model.add_adapter("night", SelaConfig(**NIGHT))
    model.add_adapter("rain", SelaConfig(**RAIN))
    for seed, name in enumerate(SETTINGS):
        fill_adapter(model, name, seed=seed)
    return model


def assert_same(output, expected):
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.global_descriptors, expected.global_descriptors)
    if expected.local_features is None:
        assert output.local_features is None
    else:
        assert torch.equal(output.local_features, expected.local_features)


def active_in(model):
    """The active adapters as all layers of the model see them."""
    return {tuple(module.active_adapters) for module in model.modules() if isinstance(module, SelaLayer)}


def trainable_in(model):
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {part for name in names for part in name.split(".") if part in SETTINGS or "sela_" not in name}


class TestSwitching:
    def test_every_adapter_acts_as_if_it_were_alone(self, model, alone, images):
        for name in ("day", "night", "rain", "night", "day"):
            model.set_adapter(name)
            assert_same(model(images), alone[name])

    def test_the_adapters_differ_and_disabling_hides_whichever_is_active(self, model, alone, images):
        with model.disable_adapter():
            plain = model(images).last_hidden_state
        for name in SETTINGS:
            model.set_adapter(name)
            assert not torch.equal(alone[name].last_hidden_state, plain)
            with model.disable_adapter():
                assert torch.equal(model(images).last_hidden_state, plain)

    def test_adding_an_adapter_does_not_make_it_active(self, model, alone, images):
        assert model.active_adapter == "day"
        assert active_in(model) == {("day",)}
        assert_same(model(images), alone["day"])

    def test_only_the_active_adapter_is_trained(self, model):
        for name in SETTINGS:
            model.set_adapter(name)
            assert trainable_in(model) == {name}

    def test_only_the_active_adapter_gets_gradients(self, model, images):
        model.set_adapter("rain")
        model(images).local_features.sum().backward()
        assert all("rain" in name for name, parameter in model.named_parameters() if parameter.grad is not None)
        assert sum(parameter.grad is not None for parameter in model.parameters()) == 4 + 4  # one MLP, two up-convs

    def test_switching_while_disabled_shows_when_enabled_again(self, model, alone, images):
        with model.disable_adapter():
            model.set_adapter("night")
        assert_same(model(images), alone["night"])
        assert trainable_in(model) == {"night"}

    def test_adapters_may_share_one_config_object(self, backbone, images, fill_adapter):
        config = SelaConfig(local_channels=(8, 4))
        model = get_peft_model(backbone, config, "day")
        model.add_adapter("night", config)
        fill_adapter(model, "day", seed=0)
        fill_adapter(model, "night", seed=1)
        day = model(images).global_descriptors
        model.set_adapter("night")
        assert not torch.equal(model(images).global_descriptors, day)


class TestOneAtATime:
    def test_activating_two_through_the_tuner_is_refused(self, model, alone, images):
        with pytest.raises(ValueError, match=r"Only one .* got \['day', 'night'\]; call set_adapter with one name"):
            model.base_model.set_adapter(["day", "night"])
        assert active_in(model) == {("day",)}
        assert_same(model(images), alone["day"])

    def test_activating_two_through_transformers_is_refused(self, model):
        backbone = model.get_base_model()
        backbone._hf_peft_config_loaded = True  # as after backbone.add_adapter
        with pytest.raises(ValueError, match=r"Only one .* got \['night', 'rain'\]"):
            backbone.set_adapter(["night", "rain"])
        backbone.set_adapter(["night"])
        assert active_in(model) == {("night",)}

    @pytest.mark.filterwarnings(ALREADY_A_CONFIG)
    def test_adapters_added_through_transformers_switch_as_well(self, backbone, alone, images, fill_adapter):
        for seed, (name, settings) in enumerate(SETTINGS.items()):
            backbone.add_adapter(SelaConfig(**settings), name)
            fill_adapter(backbone, name, seed=seed)
            assert backbone.active_adapters() == [name]
        for name in SETTINGS:
            backbone.set_adapter(name)
            assert_same(backbone(images), alone[name])


class TestSameNameTwice:
    """PEFT would create anew what the second adapter has, and keep the rest of the first."""

    def test_is_refused_by_add_adapter(self, model, alone, images):
        with pytest.raises(ValueError, match="dapter .*named? 'day'"):
            model.add_adapter("day", SelaConfig())
        # not through the PeftModel: before peft 0.21 it drops the adapter's config after such an error
        assert_same(model.base_model.model(images), alone["day"])

    def test_is_refused_when_a_backbone_is_adapted_a_second_time(self, model, alone, images):
        with (
            pytest.warns(UserWarning, match="second time|Already found"),
            pytest.raises(ValueError, match="already has an adapter named 'day'.*unload first"),
        ):
            get_peft_model(model.get_base_model(), SelaConfig(), "day")
        assert_same(model(images), alone["day"])

    def test_leaves_the_settings_of_the_first_as_they_are(self, backbone):
        """A notebook whose cell is run twice: what is saved afterwards is the first adapter."""
        model = get_peft_model(backbone, SelaConfig(image_size=(56, 84), local_channels=(8, 4)))
        before = dict(vars(model.peft_config["default"]))
        with (
            pytest.warns(UserWarning, match="second time"),
            pytest.raises(ValueError, match="already has an adapter named 'default'"),
        ):
            get_peft_model(backbone, SelaConfig(local_channels=(3, 2)))
        assert vars(model.peft_config["default"]) == before
        assert before["backbone_hidden_size"] is not None

    def test_is_refused_by_transformers(self, backbone):
        backbone.add_adapter(SelaConfig())
        with pytest.raises(ValueError, match="default already exists"):
            backbone.add_adapter(SelaConfig())

    def test_is_allowed_after_deleting_the_first(self, model, images):
        model.delete_adapter("night")
        model.add_adapter("night", SelaConfig(local_channels=(3, 2)))
        model.set_adapter("night")
        assert model(images).local_features.shape[-1] == 2


class TestNames:
    """PyTorch refuses some names, but only once the blocks are being changed."""

    @pytest.mark.filterwarnings(
        "ignore:Adapter name .. should not be contained in the prefix"
    )  # PEFT, of the empty one
    @pytest.mark.parametrize("name", ["", "city.v2", "keys", "train", "setdefault"])
    def test_one_that_pytorch_refuses_leaves_the_backbone_as_it_was(self, backbone, name):
        before = list(backbone.state_dict())
        with pytest.raises(ValueError, match=f"adapter_name must be a text without dots .* got {name!r}"):
            get_peft_model(backbone, SelaConfig(), name)
        assert list(backbone.state_dict()) == before
        get_peft_model(backbone, SelaConfig(), "city")

    def test_one_that_pytorch_refuses_leaves_a_model_as_it_was(self, model, alone, images):
        with pytest.raises(ValueError, match="adapter_name must be .* got 'city.v2'"):
            model.add_adapter("city.v2", SelaConfig())
        assert set(model.peft_config) == set(SETTINGS)
        assert_same(model(images), alone["day"])
        model.add_adapter("city", SelaConfig())

    @pytest.mark.parametrize("name", ["weight", "bias", "sela_up", "with space", "0"])
    def test_one_that_file_names_are_made_of_comes_back_from_its_file(
        self, backbone, images, fill_adapter, name, tmp_path
    ):
        model = fill_adapter(get_peft_model(backbone, SelaConfig(local_channels=(3, 2)), name), name)
        expected = model(images)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(model.unload(), str(tmp_path / name), adapter_name=name)
        assert_same(loaded(images), expected)


class TestDeleting:
    def test_an_inactive_adapter_leaves_the_others_as_they_were(self, model, alone, images):
        model.delete_adapter("night")
        assert not any("night" in name for name in model.state_dict())
        assert_same(model(images), alone["day"])
        model.set_adapter("rain")
        assert_same(model(images), alone["rain"])
        with pytest.raises(ValueError, match="night"):
            model.set_adapter("night")

    def test_the_active_adapter_makes_one_and_the_same_other_active_everywhere(self, model, alone, images):
        model.set_adapter("night")  # in both blocks; "day" is only in the first, "rain" only in the second
        with pytest.warns(UserWarning, match="night was active which is now deleted. Setting active adapter to day"):
            model.delete_adapter("night")
        assert model.active_adapter == "day"
        assert active_in(model) == {("day",)}
        assert trainable_in(model) == {"day"}
        assert_same(model(images), alone["day"])

    @pytest.mark.filterwarnings(ALREADY_A_CONFIG)
    def test_the_active_adapter_through_transformers_does_the_same(self, backbone, alone, images, fill_adapter):
        for seed, (name, settings) in enumerate(SETTINGS.items()):
            backbone.add_adapter(SelaConfig(**settings), name)
            fill_adapter(backbone, name, seed=seed)
        backbone.set_adapter("night")
        with pytest.warns(UserWarning, match="Setting active adapter to day"):
            backbone.delete_adapter("night")
        assert active_in(backbone) == {("day",)}
        assert_same(backbone(images), alone["day"])

    def test_all_of_them_leaves_the_plain_backbone(self, model, backbone, images):
        with model.disable_adapter():
            plain = model(images)
        with warnings.catch_warnings(action="ignore"):  # which other adapter becomes active
            for name in SETTINGS:
                model.delete_adapter(name)
        assert not any("sela_" in name for name in model.state_dict())
        output = backbone(images)  # PeftModel itself refuses to run without an adapter
        assert type(output) is type(plain)
        assert torch.equal(output.last_hidden_state, plain.last_hidden_state)
        assert torch.equal(model.unload()(images).last_hidden_state, plain.last_hidden_state)

    def test_all_of_them_lets_a_new_one_be_added(self, backbone, images):
        model = get_peft_model(backbone, SelaConfig())
        model.delete_adapter("default")
        model.add_adapter("new", SelaConfig(local_channels=(8, 4)))
        model.set_adapter("new")
        assert model(images).local_features.shape[-1] == 4
        assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "sela_" not in name)

    def test_the_last_one_through_transformers_leaves_the_plain_backbone(self, backbone, images, fill_adapter):
        plain = backbone(images)
        backbone.add_adapter(SelaConfig())
        fill_adapter(backbone)
        backbone.delete_adapter("default")
        output = backbone(images)
        assert type(output) is type(plain)
        assert torch.equal(output.last_hidden_state, plain.last_hidden_state)


class TestSavingAndLoading:
    def test_all_come_back_as_they_were(self, model, alone, images, tmp_path):
        model.save_pretrained(str(tmp_path))
        backbone = model.unload()
        loaded = PeftModel.from_pretrained(backbone, str(tmp_path / "rain"), adapter_name="rain")
        loaded.load_adapter(str(tmp_path / "day"), "day")
        loaded.load_adapter(str(tmp_path / "night"), "night")
        for name in SETTINGS:
            loaded.set_adapter(name)
            assert_same(loaded(images), alone[name])

    def test_each_file_holds_its_own_adapter_and_settings(self, model, tmp_path):
        model.save_pretrained(str(tmp_path), selected_adapters=["night", "day"])
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["day", "night"]
        night = PeftConfig.from_pretrained(str(tmp_path / "night"))
        assert {name: getattr(night, name) for name in NIGHT} == NIGHT

    @pytest.mark.filterwarnings(ALREADY_A_CONFIG)
    def test_transformers_loads_them_beside_each_other(self, model, alone, images, tmp_path):
        model.save_pretrained(str(tmp_path))
        backbone = model.unload()
        for name in SETTINGS:
            backbone.load_adapter(str(tmp_path / name), name)
        for name in SETTINGS:
            backbone.set_adapter(name)
            assert_same(backbone(images), alone[name])

    def test_an_adapter_may_be_loaded_under_another_name(self, model, alone, images, tmp_path):
        model.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(model.unload(), str(tmp_path / "day"), adapter_name="morning")
        assert_same(loaded(images), alone["day"])
