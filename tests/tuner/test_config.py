"""Configuration: what is refused and how, and what an `adapter_config.json` holds."""

import json
import re
from dataclasses import fields
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig, TaskType, get_peft_model

from selavpr_peft import SelaConfig

OWN_FIELDS = [field for field in fields(SelaConfig) if field.name not in {f.name for f in fields(PeftConfig)}]

# Field, value, and what the message must say besides the two: the remedy.
REFUSED = [
    ("bottleneck_ratio", 0.0, r"in \(0, 1\].*default is 0.5"),
    ("bottleneck_ratio", -0.5, r"in \(0, 1\].*default is 0.5"),
    ("bottleneck_ratio", 1.01, r"in \(0, 1\].*default is 0.5"),
    ("bottleneck_ratio", float("nan"), r"in \(0, 1\].*default is 0.5"),
    ("bottleneck_ratio", "0.5", r"in \(0, 1\].*default is 0.5"),
    ("bottleneck_ratio", None, r"in \(0, 1\].*default is 0.5"),
    ("parallel_scale", float("inf"), "finite.*default is 0.2"),
    ("parallel_scale", float("nan"), "finite.*default is 0.2"),
    ("parallel_scale", "0.2", "finite.*default is 0.2"),
    ("gem_p", 0.0, "positive and finite.*default is 3.0"),
    ("gem_p", -3.0, "positive and finite.*default is 3.0"),
    ("gem_p", float("inf"), "positive and finite.*default is 3.0"),
    ("gem_p", [3.0], "positive and finite.*default is 3.0"),
    ("gem_eps", 0.0, r"in \(0, 1\).*default is 1e-6"),
    ("gem_eps", 1.0, r"in \(0, 1\).*default is 1e-6"),
    ("use_serial_adapter", "no", "True, False"),
    ("use_parallel_adapter", None, "True, False"),
    ("use_local_head", "false", "True, False"),
    ("local_channels", (256,), r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", (256, 128, 64), r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", (256, 0), r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", (256, 12.5), r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", (True, True), r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", 128, r"two positive whole numbers.*\(256, 128\)"),
    ("local_channels", None, r"two positive whole numbers.*\(256, 128\)"),
    ("image_size", 224, r"height and width.*\(224, 224\)"),
    ("image_size", (224, -14), r"height and width.*\(224, 224\)"),
    ("position_interpolation", "bicubic", "'backbone', 'official'"),
    ("position_interpolation", None, "'backbone', 'official'"),
    ("resize", "Official", "'antialias', 'official'"),
    ("layers_to_transform", [], "at least one block.*None adapts all"),
    ("layers_to_transform", -1, "at least one block.*None adapts all"),
    ("layers_to_transform", [0, -1], "at least one block.*None adapts all"),
    ("layers_to_transform", [0.0], "at least one block.*None adapts all"),
    ("layers_to_transform", 1.5, "at least one block.*None adapts all"),
    ("layers_to_transform", True, "at least one block.*None adapts all"),
    ("layers_to_transform", "all", "at least one block.*None adapts all"),
    ("target_modules", "q_proj", r"\['attention', 'mlp'\].*None takes both"),
    ("target_modules", [], r"\['attention', 'mlp'\].*None takes both"),
    ("target_modules", ["mlp", "norm1"], r"\['attention', 'mlp'\].*None takes both"),
    ("target_modules", 1, r"\['attention', 'mlp'\].*None takes both"),
    ("layout_version", 2, "install one that reads it"),
    ("layout_version", "1", "install one that reads it"),
    ("task_type", TaskType.FEATURE_EXTRACTION, "must be None.*Leave it out"),
    ("task_type", "FEATURE_EXTRACTION", "must be None.*Leave it out"),
]


@pytest.fixture
def without_type_checks():
    """Let values of a wrong type reach the validation, as in production, where annotations are not enforced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_type_checks")
class TestValidation:
    @pytest.mark.parametrize(("name", "value", "remedy"), REFUSED, ids=lambda value: str(value)[:24])
    def test_a_bad_value_is_refused_with_field_value_and_remedy(self, name, value, remedy):
        with pytest.raises(ValueError, match=remedy) as refusal:
            SelaConfig(**{name: value})
        assert str(refusal.value).startswith(f"{name} must")
        assert getattr(value, "value", str(value)) in str(refusal.value)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("bottleneck_ratio", 1),
            ("parallel_scale", 0.0),
            ("parallel_scale", -1),
            ("gem_p", 1),
            ("image_size", (14, 1400)),
            ("position_interpolation", "official"),
            ("resize", "official"),
        ],
    )
    def test_values_at_the_edge_of_what_works_are_kept_as_they_are(self, name, value):
        assert getattr(SelaConfig(**{name: value}), name) == value

    def test_an_unknown_field_is_refused(self):
        with pytest.raises(TypeError, match="rank"):
            SelaConfig(rank=8)

    @pytest.mark.parametrize(
        ("given_value", "kept"), [(1, [1]), (range(2), [0, 1]), ((1, 0, 1), [0, 1]), ({3}, [3]), (None, None)]
    )
    def test_blocks_become_a_sorted_list(self, given_value, kept):
        assert SelaConfig(layers_to_transform=given_value).layers_to_transform == kept

    @pytest.mark.parametrize(
        ("given_value", "kept"),
        [("mlp", ["mlp"]), (("mlp", "attention"), ["attention", "mlp"]), ({"attention"}, ["attention"]), (None, None)],
    )
    def test_target_modules_become_a_sorted_list(self, given_value, kept):
        assert SelaConfig(target_modules=given_value).target_modules == kept

    def test_only_the_named_blocks_are_adapted(self):
        config = SelaConfig(layers_to_transform=[0, 2])
        assert [config.adapts_layer(index) for index in range(4)] == [True, False, True, False]
        assert SelaConfig().adapts_layer(39)


class TestAdapterWidth:
    @given(hidden_size=st.integers(1, 4096), ratio=st.floats(1e-3, 1.0))
    def test_it_is_the_share_rounded_down_and_never_below_one(self, hidden_size, ratio):
        config = SelaConfig(bottleneck_ratio=ratio)
        if hidden_size * ratio < 1:
            with pytest.raises(ValueError, match="bottleneck_ratio"):
                config.adapter_width(hidden_size)
            return
        width = config.adapter_width(hidden_size)
        assert 1 <= width <= hidden_size
        assert width <= hidden_size * ratio < width + 1

    @given(hidden_size=st.integers(2, 4096))
    def test_the_smallest_ratio_named_in_the_refusal_works(self, hidden_size):
        with pytest.raises(ValueError, match="hidden width of 0") as refusal:
            SelaConfig(bottleneck_ratio=0.5 / hidden_size).adapter_width(hidden_size)
        assert f"width {hidden_size}" in str(refusal.value)
        named = float(re.search(r"at least (\S+) is needed", str(refusal.value))[1])
        assert SelaConfig(bottleneck_ratio=named).adapter_width(hidden_size) == 1

    def test_the_paper_halves_the_width(self):
        assert SelaConfig().adapter_width(1024) == 512
        assert SelaConfig().adapter_width(33) == 16  # as int() in the official code


class TestDocumentation:
    @pytest.mark.parametrize("field", OWN_FIELDS, ids=lambda field: field.name)
    def test_every_field_says_what_it_is_for(self, field):
        assert len(field.metadata["help"]) > 20
        assert field.metadata["help"].endswith((".", "))"))


class TestFile:
    def test_the_file_has_exactly_these_keys_and_values(self, tiny_backbone, tmp_path):
        model = get_peft_model(
            tiny_backbone,
            SelaConfig(
                local_channels=(8, 4), layers_to_transform=range(2), target_modules="mlp", image_size=(322, 434)
            ),
        )
        model.save_pretrained(str(tmp_path))
        content = json.loads(Path(tmp_path, "adapter_config.json").read_text())
        own = {name: value for name, value in content.items() if name not in {f.name for f in fields(PeftConfig)}}
        assert own == {
            "bottleneck_ratio": 0.5,
            "parallel_scale": 0.2,
            "use_serial_adapter": True,
            "use_parallel_adapter": True,
            "use_local_head": True,
            "local_channels": [8, 4],
            "gem_p": 3.0,
            "gem_eps": 1e-06,
            "position_interpolation": "backbone",
            "image_size": [322, 434],
            "resize": "antialias",
            "layers_to_transform": [0, 1],
            "target_modules": ["mlp"],
            "backbone_num_layers": 2,
            "backbone_hidden_size": 32,
            "backbone_patch_size": 14,
            "backbone_fingerprint": None,
            "layout_version": 1,
        }
        assert content["peft_type"] == "SELA"
        assert content["task_type"] is None
        assert content["auto_mapping"]["base_model_class"] == "Dinov2Model"

    def test_the_defaults_are_those_of_the_paper(self):
        config = SelaConfig()
        assert {field.name: getattr(config, field.name) for field in OWN_FIELDS} == {
            "bottleneck_ratio": 0.5,
            "parallel_scale": 0.2,
            "use_serial_adapter": True,
            "use_parallel_adapter": True,
            "use_local_head": True,
            "local_channels": (256, 128),
            "gem_p": 3.0,
            "gem_eps": 1e-06,
            "position_interpolation": "backbone",
            "image_size": (224, 224),
            "resize": "antialias",
            "layers_to_transform": None,
            "target_modules": None,
            "backbone_num_layers": None,
            "backbone_hidden_size": None,
            "backbone_patch_size": None,
            "backbone_fingerprint": None,
            "layout_version": 1,
        }

    @pytest.mark.parametrize(
        "config",
        [
            SelaConfig(),
            SelaConfig(
                bottleneck_ratio=0.25,
                parallel_scale=0.1,
                use_serial_adapter=False,
                use_parallel_adapter=False,
                use_local_head=False,
                local_channels=[8, 4],
                gem_p=2.5,
                gem_eps=1e-5,
                position_interpolation="official",
                image_size=[322, 434],
                resize="official",
                layers_to_transform=[1],
                target_modules=["attention"],
            ),
        ],
        ids=["defaults", "nothing default"],
    )
    def test_a_saved_config_comes_back_equal(self, config, tmp_path):
        config.save_pretrained(str(tmp_path))
        for loaded in (SelaConfig.from_pretrained(str(tmp_path)), PeftConfig.from_pretrained(str(tmp_path))):
            assert type(loaded) is SelaConfig
            assert loaded == config

    def test_pairs_come_back_from_json_as_tuples(self, tmp_path):
        SelaConfig(local_channels=[8, 4], image_size=[224, 448]).save_pretrained(str(tmp_path))
        loaded = SelaConfig.from_pretrained(str(tmp_path))
        assert (loaded.local_channels, loaded.image_size) == ((8, 4), (224, 448))

    def test_a_file_of_another_layout_is_refused(self, tmp_path):
        SelaConfig().save_pretrained(str(tmp_path))
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"layout_version": 7}))
        with pytest.raises(ValueError, match=r"layout_version must be 1, got 7.*another release"):
            PeftConfig.from_pretrained(str(tmp_path))
