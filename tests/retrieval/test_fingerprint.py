"""Fingerprints: equal for equal weights under any name, different for any other weight."""

import pytest
import torch

from selavpr_peft import SelaConfig
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
