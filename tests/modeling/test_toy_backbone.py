"""The backbone of random weights for demonstrations and tests."""

import torch

from selavpr_peft.modeling.toy_backbone import toy_backbone


class TestToyBackbone:
    def test_depends_on_the_seed_alone(self):
        torch.manual_seed(0)
        first = toy_backbone(seed=1, hidden_size=32, num_layers=1).state_dict()
        torch.manual_seed(5)
        second = toy_backbone(seed=1, hidden_size=32, num_layers=1).state_dict()
        other = toy_backbone(seed=2, hidden_size=32, num_layers=1).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(
            first["embeddings.patch_embeddings.projection.weight"],
            other["embeddings.patch_embeddings.projection.weight"],
        )

    def test_leaves_the_generators_of_pytorch_alone(self, monkeypatch):
        def fail(seed):
            raise AssertionError("a GPU's generator would be changed")

        monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
        before = torch.get_rng_state()
        toy_backbone(hidden_size=32, num_layers=1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_has_the_shape_asked_for(self):
        backbone = toy_backbone(hidden_size=96, num_layers=2)
        assert (backbone.config.hidden_size, backbone.config.num_hidden_layers) == (96, 2)
        assert not any(module.training for module in backbone.modules())
        with torch.inference_mode():
            tokens = backbone(pixel_values=torch.zeros(1, 3, 28, 42)).last_hidden_state
        assert tokens.shape == (1, 1 + 2 * 3, 96)
