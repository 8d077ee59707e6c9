"""Generalised-mean pooling and the global descriptor it ends in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.modeling.pooling import gem_pool, global_descriptors
from tests import reference

features_in_any_shape = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))


def positive_features(shape):
    *sizes, seed = shape
    return torch.rand(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01


def tokens(*sizes, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


class TestGemPool:
    @pytest.mark.parametrize(
        ("values", "p", "expected"),
        [
            ([1.0, 3.0], 1.0, 2.0),  # the mean
            ([1.0, 7.0], 2.0, 5.0),  # root of (1 + 49) / 2
            ([0.0, 0.0, 0.0, 2.0], 2.0, 1.0),  # root of 4 / 4
            ([1.0, 2.0, 3.0], 3.0, 12 ** (1 / 3)),  # (1 + 8 + 27) / 3 = 12
            ([2.0, 4.0], -1.0, 8 / 3),  # the harmonic mean
            ([-5.0, 3.0], 1.0, 1.5),  # below eps counts as eps
        ],
    )
    def test_by_hand(self, values, p, expected):
        pooled = gem_pool(torch.tensor(values).view(1, -1, 1), torch.tensor([p]))
        assert pooled.shape == (1, 1)
        assert pooled.item() == pytest.approx(expected, rel=1e-5)

    def test_every_image_and_channel_is_pooled_by_itself(self):
        features = torch.tensor([[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0], [7.0, 70.0]]])
        torch.testing.assert_close(gem_pool(features, torch.ones(1)), torch.tensor([[2.0, 20.0], [6.0, 60.0]]))

    def test_eps_is_the_smallest_value(self):
        pooled = gem_pool(torch.zeros(1, 4, 2), torch.tensor([3.0]), eps=0.25)
        torch.testing.assert_close(pooled, torch.full((1, 2), 0.25))

    @given(features_in_any_shape)
    @settings(deadline=None, max_examples=25)
    def test_is_the_mean_with_p_1(self, shape):
        features = positive_features(shape)
        torch.testing.assert_close(gem_pool(features, torch.ones(1)), features.mean(dim=1))

    @given(features_in_any_shape)
    @settings(deadline=None, max_examples=25)
    def test_tends_to_the_maximum(self, shape):
        features = positive_features(shape)
        torch.testing.assert_close(gem_pool(features, torch.tensor([400.0])), features.amax(dim=1), rtol=0.01, atol=0)

    @given(features_in_any_shape, st.floats(0.1, 20), st.floats(1.01, 3))
    @settings(deadline=None, max_examples=50)
    def test_never_falls_as_p_grows(self, shape, p, factor):
        features = positive_features(shape)
        smaller = gem_pool(features, torch.tensor([p]).double())
        larger = gem_pool(features, torch.tensor([p * factor]).double())
        assert (larger >= smaller * (1 - 1e-12)).all()

    @given(features_in_any_shape)
    @settings(deadline=None, max_examples=25)
    def test_does_not_depend_on_the_order_of_the_grid(self, shape):
        features = positive_features(shape)
        torch.testing.assert_close(
            gem_pool(features.flip(1), torch.tensor([3.0])), gem_pool(features, torch.tensor([3.0]))
        )

    def test_has_a_gradient_everywhere_also_for_zeros_and_negative_values(self):
        features = torch.tensor([[[0.0], [-2.0], [1e-9], [0.5]]], requires_grad=True)
        p = torch.tensor([3.0], requires_grad=True)
        gem_pool(features, p).sum().backward()
        assert features.grad.isfinite().all()
        assert features.grad.flatten()[:3].tolist() == [0, 0, 0]  # clamped
        assert p.grad.isfinite().all()
        assert p.grad.item() > 0  # a larger exponent gives a larger mean

    @pytest.mark.parametrize("p", [3.0, 8.0, 100.0])
    def test_has_a_gradient_also_where_powers_of_eps_vanish_in_float32(self, p):
        features = torch.tensor([[[0.0, 0.5], [1e-9, 0.25]]], requires_grad=True)  # 1e-6 to the power of 8 is 0
        p = torch.tensor([p], requires_grad=True)
        pooled = gem_pool(features, p)
        pooled.sum().backward()
        assert pooled[0, 0].item() == pytest.approx(1e-6)
        assert features.grad.isfinite().all()
        assert p.grad.isfinite().all()

    def test_passes_gradcheck(self):
        features = positive_features((2, 3, 2, 0)).requires_grad_()
        assert torch.autograd.gradcheck(
            gem_pool, (features, torch.tensor([2.5], dtype=torch.float64, requires_grad=True))
        )


class TestGlobalDescriptors:
    @pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
    def test_equal_those_of_the_paper_in_plain_code(self, p):
        patch_tokens = tokens(3, 20, 16)
        expected = reference.global_descriptors(patch_tokens.double(), p)
        torch.testing.assert_close(
            global_descriptors(patch_tokens, torch.tensor([p])).double(), expected, atol=1e-6, rtol=0
        )

    def test_by_hand(self):
        patch_tokens = torch.tensor(
            [[[3.0, 4.0], [5.0, 0.0]]]
        )  # unit tokens (.6, .8), (1, 0); means .8, .4; unit length
        found = global_descriptors(patch_tokens, torch.ones(1))
        torch.testing.assert_close(found, torch.tensor([[0.8, 0.4]]) / 0.8**0.5)

    @given(features_in_any_shape, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.floats(0.5, 8))
    @settings(deadline=None, max_examples=40)
    def test_have_unit_length_in_float32_whatever_comes_in(self, shape, dtype, p):
        *sizes, seed = shape
        descriptors = global_descriptors(tokens(*sizes, seed=seed).to(dtype), torch.tensor([p]))
        assert descriptors.dtype == torch.float32
        torch.testing.assert_close(descriptors.norm(dim=-1), torch.ones(len(descriptors)), atol=1e-5, rtol=0)

    def test_do_not_depend_on_the_length_of_the_tokens(self):
        patch_tokens = tokens(2, 9, 8)
        scaled = patch_tokens * torch.linspace(0.1, 50, 9)[:, None]
        torch.testing.assert_close(
            global_descriptors(scaled, torch.tensor([3.0])), global_descriptors(patch_tokens, torch.tensor([3.0]))
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_half_precision_tokens_are_computed_in_float32(self, dtype):
        patch_tokens = tokens(2, 30, 64).to(dtype)
        p = torch.tensor([3.0], dtype=dtype)
        expected = global_descriptors(patch_tokens.float(), p.float())
        assert torch.equal(global_descriptors(patch_tokens, p), expected)
        assert expected.min() > 0  # in float16, eps cubed is 0, and so is every channel that is nowhere positive

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_under_autocast_are_computed_in_float32(self, dtype):
        patch_tokens = -tokens(2, 30, 64).abs()  # all clamped to eps: the hardest case
        patch_tokens[:, :, 0] *= -1
        expected = global_descriptors(patch_tokens, torch.tensor([3.0]))
        with torch.autocast("cpu", dtype=dtype):
            found = global_descriptors(patch_tokens, torch.tensor([3.0]))
        assert torch.equal(found, expected)
        assert found.dtype == torch.float32

    def test_of_tokens_without_length_are_numbers(self):
        descriptors = global_descriptors(torch.zeros(1, 4, 8), torch.tensor([3.0]))
        torch.testing.assert_close(descriptors, torch.full((1, 8), 8**-0.5))

    def test_give_the_exponent_a_gradient(self):
        p = torch.tensor([3.0], requires_grad=True)
        global_descriptors(tokens(2, 9, 8), p)[:, 0].sum().backward()
        assert p.grad.isfinite().all()
        assert p.grad.abs().item() > 0
