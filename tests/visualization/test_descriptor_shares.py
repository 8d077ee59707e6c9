"""Shares of patches in a descriptor: complete, and equal to what plain loops and gradients give."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from selavpr_peft import SelaConfig
from selavpr_peft.modeling.pooling import global_descriptors
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.visualization.descriptor_shares import descriptor_maps, descriptor_shares


def random_tokens(seed, num_patches=12, width=8):
    return torch.randn(num_patches, width, generator=torch.Generator().manual_seed(seed))


def shares_by_loops(tokens, p, eps, other):
    """The definition, one patch and channel after another, in double precision."""
    x = tokens.double().numpy()
    x = np.maximum(x / np.linalg.norm(x, axis=1, keepdims=True), eps)
    num_patches, width = x.shape
    pooled = [np.mean([x[n, c] ** p for n in range(num_patches)]) ** (1 / p) for c in range(width)]
    descriptor = np.array(pooled) / np.linalg.norm(pooled)
    partner = descriptor if other is None else other.double().numpy()
    shares = np.zeros(num_patches)
    for n in range(num_patches):
        for c in range(width):
            share_of_channel = x[n, c] ** p / sum(x[m, c] ** p for m in range(num_patches))
            shares[n] += descriptor[c] * partner[c] * share_of_channel
    return shares


class TestDescriptorShares:
    @pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
    @pytest.mark.parametrize("has_other", [False, True])
    def test_they_are_those_of_plain_loops(self, p, has_other):
        other = global_descriptors(random_tokens(2)[None], torch.tensor([p]))[0] if has_other else None
        found = descriptor_shares(random_tokens(1), torch.tensor([p]), other=other)
        np.testing.assert_allclose(found, shares_by_loops(random_tokens(1), p, 1e-6, other), rtol=1e-4, atol=1e-7)

    def test_they_add_up_to_the_cosine_similarity(self):
        p = torch.tensor([3.0])
        first, second = (global_descriptors(random_tokens(seed)[None], p)[0] for seed in (1, 2))
        torch.testing.assert_close(descriptor_shares(random_tokens(1), p, other=second).sum(), first @ second)
        torch.testing.assert_close(descriptor_shares(random_tokens(1), p).sum(), torch.tensor(1.0))

    def test_they_are_input_times_gradient_of_the_pooled_channels(self):
        # Euler: for a function homogeneous of degree 1, input times gradient adds up to the function
        tokens = random_tokens(1).abs().double()  # above the clamp, where GeM is homogeneous
        tokens = (tokens / tokens.norm(dim=1, keepdim=True)).requires_grad_()
        pooled = tokens.pow(3).mean(dim=0).pow(1 / 3)
        direction = (pooled / pooled.norm()).detach()
        (gradient,) = torch.autograd.grad(pooled @ direction / pooled.norm().detach(), tokens)
        expected = (gradient * tokens).sum(dim=1).detach().float()
        torch.testing.assert_close(descriptor_shares(tokens.detach().float(), torch.tensor([3.0])), expected)

    def test_a_patch_alone_in_its_channel_has_the_whole_of_it(self):
        # patches along different axes: each channel is one patch's, and all channels are equally strong
        shares = descriptor_shares(torch.eye(4), torch.tensor([3.0]))
        torch.testing.assert_close(shares, torch.full((4,), 0.25))

    def test_equal_patches_share_equally(self):
        tokens = random_tokens(1)[:1].expand(5, -1)
        torch.testing.assert_close(descriptor_shares(tokens, torch.tensor([3.0])), torch.full((5,), 0.2))

    def test_a_larger_exponent_gives_more_to_the_strongest_patch(self):
        tokens = random_tokens(4)
        strongest = [descriptor_shares(tokens, torch.tensor([p])).max().item() for p in (1.0, 3.0, 9.0)]
        assert strongest == sorted(strongest)
        assert strongest[0] < strongest[-1]


class TestDescriptorMaps:
    preprocessing = Preprocessing(image_size=(56, 84))
    picture = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    other = Image.effect_mandelbrot((40, 80), (-1, -1, 1, 1), 9).convert("RGB")

    @pytest.fixture
    def model(self, tiny_backbone):
        return get_peft_model(tiny_backbone, SelaConfig(local_channels=(8, 4), gem_p=2.0, gem_eps=1e-4)).eval()

    def test_of_one_picture_they_add_up_to_one_over_its_grid(self, model):
        (found,) = descriptor_maps(model, self.preprocessing, self.picture)
        assert found.shape == (4, 6)
        assert found.sum() == pytest.approx(1, abs=1e-5)

    def test_of_two_pictures_both_add_up_to_the_similarity_the_model_gives(self, model):
        first, second = descriptor_maps(model, self.preprocessing, self.picture, self.other)
        with torch.no_grad():
            batch = torch.stack([self.preprocessing(image) for image in (self.picture, self.other)])
            descriptors = model(pixel_values=batch).global_descriptors
        similarity = float(descriptors[0] @ descriptors[1])
        assert first.sum() == pytest.approx(similarity, abs=1e-5)
        assert second.sum() == pytest.approx(similarity, abs=1e-5)
        assert not np.allclose(first, second)

    def test_two_equal_pictures_have_the_maps_of_one(self, model):
        first, second = descriptor_maps(model, self.preprocessing, self.picture, self.picture)
        (alone,) = descriptor_maps(model, self.preprocessing, self.picture)
        np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(second, alone, rtol=1e-4, atol=1e-7)
