"""The contract with PEFT, for every supported family: a fresh adapter changes nothing, a disabled one neither, and
what comes out of an active one has the promised shape."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn
from transformers import (
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from selavpr_peft import SelaConfig, SelaModel, SelaOutput
from selavpr_peft.errors import BackboneMismatchError, UnsupportedBackboneError
from selavpr_peft.modeling.positions import official_position_embeddings
from selavpr_peft.tuner.head import global_descriptors_only
from selavpr_peft.tuner.layer import AdaptedModule, ParallelAdapter, SelaLayer, SerialAdapter


def assert_same_output(output, expected):
    """Compare what the backbone itself returns, bit by bit."""
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.pooler_output, expected.pooler_output)


def assert_same_description(output, expected):
    assert torch.equal(output.global_descriptors, expected.global_descriptors)
    assert torch.equal(output.local_features, expected.local_features)


def hooks_of(module):
    return {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks")}


def anatomy(model):
    """Everything about a model's modules that an adapter could leave behind: types, attributes, hooks."""
    return {name: (type(module), set(vars(module)), hooks_of(module)) for name, module in model.named_modules()}


def wrappers_in(model):
    return [module for module in model.modules() if isinstance(module, AdaptedModule)]


def depends_on_everything(output, seed=3):
    """A loss in which every descriptor and every local feature counts."""
    generator = torch.Generator().manual_seed(seed)
    weigh = [torch.randn(x.shape, generator=generator) for x in (output.global_descriptors, output.local_features)]
    return (output.global_descriptors * weigh[0]).sum() + (output.local_features * weigh[1]).sum()


class TestFreshAdapter:
    def test_equals_the_backbone_bitwise(self, family):
        backbone, images = family.make(), family.images()
        expected = backbone(images)
        output = get_peft_model(backbone, SelaConfig())(images)
        assert isinstance(output, SelaOutput)
        assert_same_output(output, expected)

    def test_equals_the_backbone_bitwise_in_training_mode(self, family):
        backbone, images = family.make().train(), family.images()
        torch.manual_seed(5)  # DINOv3 draws random scales for its rotary positions while training
        expected = backbone(images)
        model = get_peft_model(backbone, SelaConfig()).train()
        torch.manual_seed(5)
        output = model(images)
        assert output.global_descriptors.requires_grad
        assert_same_output(output, expected)

    def test_wraps_attention_and_mlp_of_every_block_and_nothing_else(self, family):
        model = get_peft_model(family.make(num_hidden_layers=3), SelaConfig())
        found = {name: type(module) for name, module in model.named_modules() if isinstance(module, AdaptedModule)}
        blocks = next(name for name in found).removeprefix("base_model.model.").split(".0.")[0]
        assert blocks.endswith(family.blocks)
        assert found == {
            f"base_model.model.{blocks}.{index}.{name}": kind
            for index in range(3)
            for name, kind in (("attention", SerialAdapter), ("mlp", ParallelAdapter))
        }

    def test_starts_as_the_paper_says(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig())
        downs = torch.cat([module.sela_down["default"].weight.detach().flatten() for module in wrappers_in(model)])
        assert downs.std().item() == pytest.approx(0.02, rel=0.1)
        assert downs.abs().max() > 0.04  # no narrower cut than torch's own
        for module in wrappers_in(model):
            assert not module.sela_down["default"].bias.any()
            assert not module.sela_up["default"].weight.any()
            assert not module.sela_up["default"].bias.any()
        assert model.get_base_model().vpr_head.sela_gem_p["default"].tolist() == [3.0]

    def test_is_made_where_the_backbone_is(self, family):
        with torch.device("meta"):  # a second device that every machine has
            backbone = family.make()
        model = get_peft_model(backbone, SelaConfig())
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}

    def test_adapters_of_one_model_differ(self, tiny_backbone):
        first, second, *_ = wrappers_in(get_peft_model(tiny_backbone, SelaConfig()))
        assert not torch.equal(first.sela_down["default"].weight, second.sela_down["default"].weight)

    def test_trains_53_059_969_parameters_on_vit_large(self):
        with torch.device("meta"):
            config = Dinov2Config(
                hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14
            )
            model = get_peft_model(Dinov2Model(config), SelaConfig())
        # 24 blocks x 2 adapters x (1024 x 512 + 512 + 512 x 1024 + 1024), 1024 x 256 x 9 + 256, 256 x 128 x 9 + 128, p
        assert 24 * 2 * 1_050_112 + 2_359_552 + 295_040 + 1 == 53_059_969
        trainable, total = model.get_nb_trainable_parameters()
        assert trainable == 53_059_969
        assert total == trainable + 304_368_640  # ViT-L/14 with its mask token


class TestDisabledAdapter:
    def test_is_the_backbone_bitwise_with_its_own_output_type(self, family, fill_adapter):
        backbone, images = family.make(), family.images()
        expected = backbone(images)
        model = fill_adapter(get_peft_model(backbone, SelaConfig()))
        assert not torch.equal(model(images).last_hidden_state, expected.last_hidden_state)
        with model.disable_adapter():
            output = model(images)
            as_tuple = model(images, return_dict=False)
        assert type(output) is type(expected)
        assert_same_output(output, expected)
        assert len(as_tuple) == 2
        assert torch.equal(as_tuple[0], expected.last_hidden_state)

    def test_comes_back_bitwise(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        before = model(images)
        with model.disable_adapter():
            model(images)
        after = model(images)
        assert_same_output(after, before)
        assert_same_description(after, before)

    def test_does_not_mind_the_image_size(self, tiny_backbone):
        expected = tiny_backbone(torch.zeros(1, 3, 30, 45)).last_hidden_state
        model = get_peft_model(tiny_backbone, SelaConfig())
        with model.disable_adapter():
            assert torch.equal(model(torch.zeros(1, 3, 30, 45)).last_hidden_state, expected)

    @pytest.mark.parametrize("inference_mode", [True, False])
    def test_is_as_trainable_afterwards_as_before(self, tiny_backbone, inference_mode):
        model = get_peft_model(tiny_backbone, SelaConfig(inference_mode=inference_mode))
        before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        assert any(before.values()) is not inference_mode
        with model.disable_adapter():
            assert not any(parameter.requires_grad for parameter in model.parameters())
            with model.disable_adapter():
                pass
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before

    def test_keeps_single_parameters_frozen(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig())
        model.get_base_model().vpr_head.sela_gem_p["default"].requires_grad_(False)
        with model.disable_adapter():
            pass
        frozen = [name for name, p in model.named_parameters() if "sela_" in name and not p.requires_grad]
        assert frozen == ["base_model.model.vpr_head.sela_gem_p.default"]

    def test_disabling_through_transformers_does_the_same(self, family, fill_adapter):
        backbone, images = family.make(), family.images()
        expected = backbone(images)
        backbone.add_adapter(SelaConfig())
        adapted = fill_adapter(backbone)(images)
        backbone.disable_adapters()
        output = backbone(images)
        assert type(output) is type(expected)
        assert_same_output(output, expected)
        backbone.enable_adapters()
        assert_same_description(backbone(images), adapted)


class TestUnload:
    def test_gives_back_the_exact_backbone(self, family, fill_adapter):
        backbone, images = family.make(), family.images()
        expected, parts = backbone(images), anatomy(backbone)
        weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        model = fill_adapter(get_peft_model(backbone, SelaConfig(position_interpolation=positions_for(family))))
        model(images)
        unloaded = model.unload()
        assert unloaded is backbone
        assert anatomy(unloaded) == parts
        assert not hasattr(unloaded, "peft_config")
        assert list(unloaded.state_dict()) == list(weights)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in unloaded.state_dict().items())
        output = unloaded(images)
        assert type(output) is type(expected)
        assert_same_output(output, expected)

    def test_lets_the_backbone_be_adapted_anew(self, family, fill_adapter):
        backbone, images = family.make(), family.images()
        expected = backbone(images)
        fill_adapter(get_peft_model(backbone, SelaConfig(local_channels=(8, 4)))).unload()
        model = get_peft_model(backbone, SelaConfig(local_channels=(6, 5)))
        assert_same_output(model(images), expected)
        assert model(images).local_features.shape[-1] == 5
        assert len(wrappers_in(model)) == 4

    def test_may_be_repeated(self, tiny_backbone, images):
        expected = tiny_backbone(images)
        model = get_peft_model(tiny_backbone, SelaConfig())
        assert model.unload() is model.unload() is tiny_backbone
        assert_same_output(tiny_backbone(images), expected)

    def test_works_with_an_adapter_that_was_disabled(self, tiny_backbone, images):
        expected = tiny_backbone(images)
        model = get_peft_model(tiny_backbone, SelaConfig())
        model.base_model.disable_adapter_layers()
        assert_same_output(model.unload()(images), expected)


class TestGradients:
    def test_only_adapters_and_head_require_one_and_all_of_them_get_one(self, family, fill_adapter):
        model = fill_adapter(get_peft_model(family.make(), SelaConfig(local_channels=(8, 4)))).train()
        assert {p for name, p in model.named_parameters() if "sela_" in name} == {
            p for p in model.parameters() if p.requires_grad
        }
        depends_on_everything(model(family.images())).backward()
        for name, parameter in model.named_parameters():
            if "sela_" in name:
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.any(), name
            else:
                assert parameter.grad is None, name

    def test_one_step_of_training_changes_the_descriptors_and_not_the_backbone(self, family):
        backbone, images = family.make(), family.images()
        weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        model = get_peft_model(backbone, SelaConfig(local_channels=(8, 4))).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        before = model.eval()(images).global_descriptors
        model.train()
        depends_on_everything(model(images)).backward()
        optimizer.step()
        assert not torch.equal(model.eval()(images).global_descriptors, before)
        now = model.unload().state_dict()
        assert all(torch.equal(now[name], tensor) for name, tensor in weights.items())

    def test_the_tuner_reports_what_is_trained(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig(local_channels=(8, 4)))
        assert isinstance(model.base_model, SelaModel)
        status = model.get_model_status()
        # 4 adapters of 32 x 16 + 16 + 16 x 32 + 32, then 32 x 8 x 9 + 8, 8 x 4 x 9 + 4, p
        assert status.trainable_params == 4 * 1072 + 2312 + 292 + 1
        assert status.num_adapter_layers == 5
        assert status.enabled is True
        assert status.requires_grad == {"default": True}


class TestOutput:
    @pytest.mark.parametrize(("rows", "columns"), [(4, 6), (1, 1), (1, 5), (7, 2)])
    def test_has_the_promised_shapes_and_unit_norms(self, family, fill_adapter, rows, columns):
        model = fill_adapter(get_peft_model(family.make(), SelaConfig(local_channels=(8, 4))))
        output = model(family.images(rows, columns))
        assert output.global_descriptors.shape == (2, 32)
        assert output.local_features.shape == (2, 4 * rows - 3, 4 * columns - 3, 4)
        torch.testing.assert_close(output.global_descriptors.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(output.local_features.norm(dim=-1), torch.ones(2, 4 * rows - 3, 4 * columns - 3))

    def test_is_computed_from_the_patch_tokens_alone(self, family, fill_adapter):
        """By hand, from the backbone's output: CLS and registers come first and do not count."""
        model = fill_adapter(get_peft_model(family.make(), SelaConfig(gem_p=2.0)))
        head = model.get_base_model().vpr_head
        output = model(family.images(4, 6))
        num_others = 1 + getattr(model.get_base_model().config, "num_register_tokens", 0)
        tokens = output.last_hidden_state[:, num_others:]
        assert tokens.shape == (2, 24, 32)
        p = head.sela_gem_p["default"]
        assert p > 2
        pooled = F.normalize(tokens, dim=-1).clamp(min=1e-6).pow(p).mean(dim=1).pow(1 / p)
        torch.testing.assert_close(output.global_descriptors, F.normalize(pooled, dim=-1))
        first, second = head.sela_upconv1["default"], head.sela_upconv2["default"]
        grid = tokens.reshape(2, 4, 6, 32).permute(0, 3, 1, 2)
        dense = F.conv_transpose2d(grid, first.weight, first.bias, stride=2, padding=1).relu()
        dense = F.conv_transpose2d(dense, second.weight, second.bias, stride=2, padding=1)
        torch.testing.assert_close(output.local_features, F.normalize(dense, dim=1).permute(0, 2, 3, 1))

    def test_an_image_does_not_depend_on_the_others_of_its_batch(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images(count=3)
        together, alone = model(images), model(images[1:2])
        torch.testing.assert_close(together.global_descriptors[1:2], alone.global_descriptors)
        torch.testing.assert_close(together.local_features[1:2], alone.local_features)

    def test_a_tuple_ends_with_descriptors_and_local_features(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        expected, output = model(images), model(images, return_dict=False)
        assert isinstance(output, tuple)
        assert len(output) == 4
        names = ("last_hidden_state", "pooler_output", "global_descriptors", "local_features")
        assert all(torch.equal(item, expected[name]) for item, name in zip(output, names, strict=True))

    def test_a_tuple_has_none_last_without_a_local_head(self, tiny_backbone, images):
        output = get_peft_model(tiny_backbone, SelaConfig(use_local_head=False))(images, return_dict=False)
        assert len(output) == 4
        assert output[2].shape == (2, 32)
        assert output[3] is None

    def test_hidden_states_and_attentions_pass_through(self, family):
        backbone, images = family.make(attn_implementation="eager"), family.images()
        asked = {"output_hidden_states": True, "output_attentions": True}
        expected = backbone(images, **asked)
        output = get_peft_model(backbone, SelaConfig())(images, **asked)
        assert len(expected.hidden_states) == 3
        assert len(expected.attentions) == 2
        for name in ("hidden_states", "attentions"):
            assert len(output[name]) == len(expected[name])
            assert all(map(torch.equal, output[name], expected[name]))
        assert output.global_descriptors.shape == (2, 32)

    def test_hidden_states_are_those_of_the_adapted_blocks(self, family, fill_adapter):
        model = fill_adapter(get_peft_model(family.make(), SelaConfig(layers_to_transform=[1])))
        images = family.images()
        adapted = model(images, output_hidden_states=True).hidden_states
        with model.disable_adapter():
            plain = model(images, output_hidden_states=True).hidden_states
        assert [torch.equal(*pair) for pair in zip(adapted, plain, strict=True)] == [True, True, False]

    def test_images_by_position_and_by_name_are_the_same(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        assert_same_description(model(images), model(pixel_values=images))


class TestGlobalDescriptorsOnly:
    def test_leaves_out_the_local_features_for_a_while(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        expected = model(images)
        with global_descriptors_only(model):
            output = model(images)
        assert output.local_features is None
        assert torch.equal(output.global_descriptors, expected.global_descriptors)
        assert_same_description(model(images), expected)

    def test_ends_with_an_error_too(self, tiny_backbone, images):
        model = get_peft_model(tiny_backbone, SelaConfig())
        with pytest.raises(ValueError, match="patch size"), global_descriptors_only(model):
            model(torch.zeros(1, 3, 10, 10))
        assert model(images).local_features.shape == (2, 13, 21, 128)


class TestAdapterArithmetic:
    """One block, computed by hand beside the backbone's own modules (official block.py)."""

    def test_the_serial_adapter_adds_to_the_attention_and_the_parallel_one_to_the_mlp(self, family, fill_adapter):
        config = SelaConfig(parallel_scale=0.7)
        model = fill_adapter(get_peft_model(family.make(), config))
        serial, parallel = wrappers_in(model)[:2]
        x = torch.randn(2, 25, 32, generator=torch.Generator().manual_seed(6))

        def bottleneck(module, x):
            down, up = module.sela_down["default"], module.sela_up["default"]
            return (x @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias

        rotary = (torch.ones(24, 16), torch.zeros(24, 16))  # DINOv3's positions: cosine and sine of no rotation
        extra = {"position_embeddings": rotary} if "DINOv3" in type(model.get_base_model()).__name__ else {}
        plain, adapted = serial.base_layer(x, **extra), serial(x, **extra)
        if isinstance(plain, tuple):
            assert len(adapted) == len(plain)
            plain, adapted = plain[0], adapted[0]
        torch.testing.assert_close(adapted, plain + bottleneck(serial, plain))
        torch.testing.assert_close(parallel(x), parallel.base_layer(x) + 0.7 * bottleneck(parallel, x))

    def test_the_wrapper_answers_for_the_module_it_wraps(self, tiny_backbone):
        (attention, mlp, *_) = wrappers_in(get_peft_model(tiny_backbone, SelaConfig()))
        assert mlp.fc1 is mlp.base_layer.fc1
        assert attention.get_base_layer() is attention.base_layer
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = mlp.no_such_thing

    def test_a_wrapper_that_is_not_yet_built_says_so(self):
        """Copying and unpickling look at such objects; looking for the wrapped module must not go round in circles."""
        with pytest.raises(AttributeError, match="base_layer"):
            _ = ParallelAdapter.__new__(ParallelAdapter).fc1

    def test_the_head_stands_for_the_whole_backbone(self, tiny_backbone):
        head = get_peft_model(tiny_backbone, SelaConfig()).get_base_model().vpr_head
        assert head.get_base_layer() is tiny_backbone
        assert (head.weight, head.bias) == (None, None)
        assert tiny_backbone not in list(head.modules())  # it is the parent, not a child


class TestAblations:
    def names(self, model):
        return [name for name, _ in model.named_parameters() if "sela_down" in name and name.endswith("weight")]

    @pytest.mark.parametrize(
        ("settings", "kinds"),
        [
            ({"use_parallel_adapter": False}, {"attention"}),
            ({"use_serial_adapter": False}, {"mlp"}),
            ({"target_modules": ["attention"]}, {"attention"}),
            ({"target_modules": "mlp"}, {"mlp"}),
            ({"use_serial_adapter": False, "use_parallel_adapter": False}, set()),
        ],
        ids=str,
    )
    def test_switches_leave_out_one_kind_of_adapter(self, family, fill_adapter, settings, kinds):
        backbone, images = family.make(), family.images()
        expected = backbone(images)
        model = fill_adapter(get_peft_model(backbone, SelaConfig(**settings)))
        assert {name.split(".")[-4] for name in self.names(model)} == kinds
        assert len(self.names(model)) == 2 * len(kinds)
        output = model(images)
        assert torch.equal(output.last_hidden_state, expected.last_hidden_state) is not bool(kinds)
        assert output.local_features.shape == (2, 13, 21, 128)

    def test_with_both_kinds_off_the_head_alone_is_trained(self, tiny_backbone, images):
        config = SelaConfig(use_serial_adapter=False, use_parallel_adapter=False, local_channels=(8, 4))
        model = get_peft_model(tiny_backbone, config)
        assert model.get_nb_trainable_parameters()[0] == 2312 + 292 + 1
        depends_on_everything(model(images)).backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    def test_only_the_named_blocks_are_adapted(self, family):
        model = get_peft_model(family.make(num_hidden_layers=4), SelaConfig(layers_to_transform=[1, 3]))
        assert {name.split(".")[-5] for name in self.names(model)} == {"1", "3"}
        assert len(wrappers_in(model)) == 4

    def test_a_block_that_is_not_there_is_refused(self, family):
        backbone = family.make()
        with pytest.raises(ValueError, match=r"layers_to_transform names blocks \[2, 7\], but the backbone has 2"):
            get_peft_model(backbone, SelaConfig(layers_to_transform=[1, 2, 7]))
        assert not any(isinstance(module, SelaLayer) for module in backbone.modules())
        assert not hasattr(backbone, "peft_config")

    def test_a_width_below_one_is_refused(self, tiny_backbone):
        with pytest.raises(ValueError, match=r"bottleneck_ratio 0.01 .* width of 0 .* 32; at least 0.03125"):
            get_peft_model(tiny_backbone, SelaConfig(bottleneck_ratio=0.01))

    def test_the_widest_adapter_is_as_wide_as_the_backbone(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig(bottleneck_ratio=1.0))
        assert wrappers_in(model)[0].sela_down["default"].weight.shape == (32, 32)

    def test_gem_settings_reach_the_descriptor(self, tiny_backbone, images):
        tokens = F.normalize(tiny_backbone(images).last_hidden_state[:, 1:], dim=-1)
        model = get_peft_model(tiny_backbone, SelaConfig(gem_p=1.0, gem_eps=0.25))
        expected = F.normalize(tokens.clamp(min=0.25).mean(dim=1), dim=-1)
        torch.testing.assert_close(model(images).global_descriptors, expected)


class TestOneConfigForTwoBackbones:
    """PEFT keeps the very object it is given, and the shape of the backbone is noted in it."""

    def test_is_refused_where_the_backbones_differ_with_the_remedy(self, families):
        config = SelaConfig()
        get_peft_model(families["dinov2"].make(), config)
        with pytest.raises(BackboneMismatchError, match="num_layers 3; .*make a new SelaConfig"):
            get_peft_model(families["dinov2"].make(num_hidden_layers=3), config)

    def test_works_where_they_have_the_same_shape(self, families, images):
        config = SelaConfig(local_channels=(8, 4))
        get_peft_model(families["dinov2"].make(), config)
        assert get_peft_model(families["dinov2-registers"].make(), config)(images).local_features.shape[-1] == 4


class TestRefusedInput:
    @pytest.mark.parametrize("by_position", [True, False])
    @pytest.mark.parametrize(
        ("size", "remedy"),
        [((30, 45), "30 x 45; resize to 28 x 42"), ((28, 41), "28 x 41; resize to 28 x 42"), ((6, 14), "14 x 14")],
    )
    def test_an_image_that_is_no_multiple_of_the_patch_is_refused(self, tiny_backbone, size, remedy, by_position):
        model, images = get_peft_model(tiny_backbone, SelaConfig()), torch.zeros(1, 3, *size)
        with pytest.raises(ValueError, match=rf"multiples of the patch size 14, got .*{remedy}"):
            model(images) if by_position else model(pixel_values=images)

    def test_every_family_knows_its_patch_size(self, family):
        model = get_peft_model(family.make(), SelaConfig())
        size = 3 * family.patch_size
        with pytest.raises(ValueError, match=f"patch size {family.patch_size}, got {size} x {size + 1}"):
            model(torch.zeros(1, 3, size, size + 1))

    @pytest.mark.parametrize("shape", [(3, 28, 28), (28, 28), (1, 1, 3, 28, 28)])
    def test_an_input_without_the_four_axes_is_refused(self, tiny_backbone, shape):
        model = get_peft_model(tiny_backbone, SelaConfig())
        with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\), got \(.*28, 28\)"):
            model(torch.zeros(shape))

    @pytest.mark.parametrize("arguments", [{}, {"pixel_values": None}, {"pixel_values": np.zeros((1, 3, 28, 28))}])
    def test_an_input_that_is_no_tensor_is_refused(self, tiny_backbone, arguments):
        model = get_peft_model(tiny_backbone, SelaConfig())
        with pytest.raises(ValueError, match=r"must be a tensor of shape \(B, 3, H, W\), got (NoneType|ndarray)"):
            model(**arguments)

    @pytest.mark.parametrize(
        "argument",
        [{"adapter_names": ["default", "__base__"]}, {"alora_offsets": [1, 1]}],
        ids=lambda a: next(iter(a)),
    )
    def test_arguments_of_other_methods_are_refused(self, tiny_backbone, images, argument):
        model = get_peft_model(tiny_backbone, SelaConfig()).eval()
        with pytest.raises(ValueError, match=f"does not support {next(iter(argument))}.*set_adapter"):
            model(images, **argument)


class TestMerging:
    @pytest.mark.parametrize("method", ["merge_and_unload", "merge_adapter"])
    def test_is_refused_and_leaves_the_adapter_in_place(self, tiny_backbone, images, fill_adapter, method):
        model = fill_adapter(get_peft_model(tiny_backbone, SelaConfig()))
        before = model(images)
        with pytest.raises(ValueError, match=r"cannot be merged.*ReLU.*unload\(\)"):
            getattr(model, method)()
        assert_same_description(model(images), before)

    def test_is_refused_by_every_layer(self, tiny_backbone):
        layers = [m for m in get_peft_model(tiny_backbone, SelaConfig()).modules() if isinstance(m, SelaLayer)]
        assert len(layers) == 5
        for layer in layers:
            with pytest.raises(ValueError, match="cannot be merged"):
                layer.merge()

    def test_unmerging_changes_nothing(self, tiny_backbone, images, fill_adapter):
        model = fill_adapter(get_peft_model(tiny_backbone, SelaConfig()))
        before = model(images)
        model.unmerge_adapter()
        assert_same_description(model(images), before)
        assert model.get_model_status().merged_adapters == []


class TestUnsupportedBackbone:
    def test_a_model_around_a_backbone_is_refused_with_the_way_to_the_inner_one(self, tiny_backbone):
        model = Dinov2ForImageClassification(tiny_backbone.config)
        with pytest.raises(UnsupportedBackboneError, match=r"Dinov2ForImageClassification.* model\.dinov2\.$"):
            get_peft_model(model, SelaConfig())
        assert isinstance(get_peft_model(model.dinov2, SelaConfig()).base_model, SelaModel)

    def test_a_feature_map_backbone_is_refused_with_the_class_to_use(self, tiny_backbone):
        with pytest.raises(UnsupportedBackboneError, match=r"Dinov2Backbone.*AutoModel"):
            get_peft_model(Dinov2Backbone(tiny_backbone.config), SelaConfig())

    def test_another_vision_transformer_is_refused_with_examples(self):
        config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        with pytest.raises(UnsupportedBackboneError, match=r"got ViTModel.*facebook/dinov2"):
            get_peft_model(ViTModel(config), SelaConfig())

    def test_a_model_that_is_none_of_transformers_is_refused(self):
        with pytest.raises(UnsupportedBackboneError, match=r"got Linear.*facebook/dinov2"):
            get_peft_model(nn.Linear(2, 2), SelaConfig())

    def test_a_refused_model_is_left_as_it_was(self, tiny_backbone):
        model = Dinov2ForImageClassification(tiny_backbone.config)
        parts = anatomy(model)
        with pytest.raises(UnsupportedBackboneError):
            get_peft_model(model, SelaConfig())
        assert anatomy(model) == parts
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_patches_that_are_not_square_are_refused(self, tiny_backbone):
        tiny_backbone.config.patch_size = [14, 7]
        with pytest.raises(UnsupportedBackboneError, match=r"square patches, got patch_size \(14, 7\)"):
            get_peft_model(tiny_backbone, SelaConfig())

    def test_a_patch_size_given_per_axis_is_understood(self, tiny_backbone):
        tiny_backbone.config.patch_size = [14, 14]
        config = SelaConfig()
        get_peft_model(tiny_backbone, config)
        assert config.backbone_patch_size == 14

    def test_a_subclass_of_a_backbone_is_supported(self, tiny_backbone, images):
        class OwnModel(Dinov2Model):
            pass

        model = get_peft_model(OwnModel(tiny_backbone.config).eval(), SelaConfig())
        assert model(images).global_descriptors.shape == (2, 32)


class TestCopies:
    def test_a_copy_gives_the_same_output_and_is_independent(self, family, fill_adapter):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        expected = model(images)
        self.assert_equal_and_independent(model, copy.deepcopy(model), images, expected)

    def test_a_pickled_model_gives_the_same_output_and_is_independent(self, family, fill_adapter, tmp_path):
        model, images = fill_adapter(get_peft_model(family.make(), SelaConfig())), family.images()
        expected = model(images)
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
        self.assert_equal_and_independent(model, loaded, images, expected)

    def assert_equal_and_independent(self, model, twin, images, expected):
        assert_same_output(twin(images), expected)
        assert_same_description(twin(images), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        assert not torch.equal(twin(images).global_descriptors, expected.global_descriptors)
        assert_same_description(model(images), expected)
        with twin.disable_adapter():
            assert_same_description(model(images), expected)
        parts = anatomy(model)
        bare = twin.unload()
        assert sum(sum(hooks.values()) for _, _, hooks in anatomy(bare).values()) == 0
        assert not isinstance(bare(images), SelaOutput)
        assert anatomy(model) == parts
        assert_same_description(model(images), expected)

    def test_a_copy_follows_its_own_position_rule(self, tiny_backbone, images):
        model = get_peft_model(tiny_backbone, SelaConfig(position_interpolation="official"))
        expected = model(images)
        twin = copy.deepcopy(model)
        with model.disable_adapter():
            assert_same_output(twin(images), expected)


class TestPositions:
    @pytest.fixture(params=["dinov2", "dinov2-registers"])
    def with_table(self, request, families):
        return families[request.param]

    def test_official_positions_are_those_of_the_official_code(self, with_table):
        images, reference = with_table.images(), with_table.make()
        table = reference.embeddings.position_embeddings
        reference.embeddings.interpolate_pos_encoding = lambda embeddings, height, width: official_position_embeddings(
            table, height, width, 14
        )
        expected = reference(images)
        output = get_peft_model(with_table.make(), SelaConfig(position_interpolation="official"))(images)
        assert_same_output(output, expected)

    def test_the_two_rules_differ(self, with_table):
        images, backbone = with_table.images(), with_table.make()
        model = get_peft_model(backbone, SelaConfig(position_interpolation="official"))
        official = model(images).last_hidden_state
        with model.disable_adapter():
            plain = model(images).last_hidden_state
        assert (official - plain).norm() > 1e-3 * plain.norm()

    def test_an_image_of_the_tables_own_size_needs_no_rule(self, with_table):
        images, backbone = with_table.images(5, 5), with_table.make()
        expected = backbone(images)
        assert_same_output(get_peft_model(backbone, SelaConfig(position_interpolation="official"))(images), expected)

    def test_they_follow_the_active_adapter(self, with_table):
        images, backbone = with_table.images(), with_table.make()
        plain = backbone(images)
        model = get_peft_model(backbone, SelaConfig())
        model.add_adapter("converted", SelaConfig(position_interpolation="official"))
        assert_same_output(model(images), plain)
        model.set_adapter("converted")
        official = model(images)
        assert not torch.equal(official.last_hidden_state, plain.last_hidden_state)
        with model.disable_adapter():
            assert_same_output(model(images), plain)
        assert_same_output(model(images), official)
        model.set_adapter("default")
        assert_same_output(model(images), plain)
        model.set_adapter("converted")
        assert_same_output(model.unload()(images), plain)

    def test_the_official_rule_is_refused_without_a_table(self, families):
        backbone = families["dinov3"].make()
        with pytest.raises(ValueError, match=r"position_interpolation='official'.*DINOv3ViTModel.*use 'backbone'"):
            get_peft_model(backbone, SelaConfig(position_interpolation="official"))
        assert not any(isinstance(module, SelaLayer) for module in backbone.modules())


def positions_for(family):
    return "backbone" if family.config_class.__name__.startswith("DINOv3") else "official"
