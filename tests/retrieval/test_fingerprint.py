"""Fingerprints: equal for equal weights under any name, different for any other weight."""

import pytest
import torch
from torch import nn

from selavpr_peft import SelaConfig
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint, backbone_fingerprint
from tests.retrieval.conftest import make_model


class TestAdapterFingerprint:
    def test_it_depends_on_the_weights_alone(self, model):
        assert adapter_fingerprint(model) == adapter_fingerprint(make_model())
        assert adapter_fingerprint(model) != adapter_fingerprint(make_model(seed=1))

    def test_a_saved_and_loaded_adapter_has_the_same_under_another_name(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        other = make_model(seed=1)
        other.load_adapter(tmp_path, adapter_name="again")
        assert adapter_fingerprint(other) != adapter_fingerprint(model)
        other.set_adapter("again")
        assert adapter_fingerprint(other) == adapter_fingerprint(model)

    @pytest.mark.parametrize("part", ["sela_gem_p", "sela_upconv2", "layer.3.mlp.sela_up", "attention.sela_down"])
    def test_any_changed_weight_shows(self, model, part):
        before = adapter_fingerprint(model)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if part in name).flatten()[0] += 1e-3
        assert adapter_fingerprint(model) != before


class TestBackboneFingerprint:
    def test_adapters_do_not_show(self, model):
        before = backbone_fingerprint(model)
        assert backbone_fingerprint(make_model(seed=1)) == before
        assert backbone_fingerprint(make_model(use_serial_adapter=False)) == before
        model.add_adapter("second", SelaConfig(local_channels=(16, 8)))
        assert backbone_fingerprint(model) == before

    def test_any_changed_weight_shows(self, model):
        before = backbone_fingerprint(model)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "base_layer" in name).flatten()[0] += 1e-3
        assert backbone_fingerprint(model) != before

    def test_names_and_the_mask_token_do_not_count(self):
        backbone = toy_backbone(num_layers=1)
        before = backbone_fingerprint(backbone)
        backbone.embeddings.mask_token.data += 1
        backbone.encoder.layer[0].add_module("feed_forward", backbone.encoder.layer[0].mlp)
        del backbone.encoder.layer[0].mlp
        assert backbone_fingerprint(backbone) == before

    def test_fused_and_split_projections_are_the_same(self):
        class Split(nn.Module):
            def __init__(self, parts):
                super().__init__()
                self.mlp = nn.Module()
                for name, part in parts.items():
                    self.mlp.register_module(name, part)

        fused, first, second = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(4, 3)
        with torch.no_grad():
            fused.weight.copy_(torch.cat((first.weight, second.weight)))
            fused.bias.copy_(torch.cat((first.bias, second.bias)))
        split = Split({"gate_proj": first, "up_proj": second})
        assert backbone_fingerprint(Split({"weights_in": fused})) == backbone_fingerprint(split)

    def test_wider_weights_can_be_rounded_before(self):
        backbone = toy_backbone(num_layers=1)
        rounded = backbone_fingerprint(backbone, torch.bfloat16)
        assert rounded != backbone_fingerprint(backbone)
        assert rounded == backbone_fingerprint(backbone.bfloat16())
