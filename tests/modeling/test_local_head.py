"""Dense local features, and where in the image each of them lies."""

import pytest
import torch
from torch import nn

from selavpr_peft.modeling.local_head import local_features, location_centres_px, up_convolution
from tests import reference


def random_head(width=6, hidden=5, channels=4, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return up_convolution(width, hidden), up_convolution(hidden, channels)


def patch_map(height, width, channels=6, batch=2):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


class TestLocalFeatures:
    @pytest.mark.parametrize("height", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("width", [1, 5])
    def test_of_a_grid_of_h_patches_are_4h_minus_3(self, height, width):
        features = local_features(patch_map(height, width), *random_head())
        assert features.shape == (2, 4 * height - 3, 4 * width - 3, 4)

    def test_equal_those_of_the_paper_in_plain_code(self):
        grid = patch_map(3, 4)
        first, second = random_head()
        weights = {
            f"upconv{number}.{kind}": getattr(layer, kind).detach().double()
            for number, layer in ((1, first), (2, second))
            for kind in ("weight", "bias")
        }
        tokens = grid.double().flatten(2).transpose(1, 2)
        expected = reference.local_features(weights, tokens, 3, 4)
        torch.testing.assert_close(local_features(grid, first, second).double(), expected, atol=1e-6, rtol=0)

    def test_by_hand(self):
        first, second = random_head(width=1, hidden=1, channels=2)
        with torch.no_grad():
            for layer in (first, second):
                layer.weight.zero_()
                layer.bias.zero_()
            first.weight[0, 0, 1, 1] = 2.0  # cell i goes to 2i alone
            first.bias[0] = -1.0  # elsewhere -1, which the ReLU sets to 0
            second.weight[0, :, 1, 1] = torch.tensor([3.0, 4.0])
            second.bias[:] = torch.tensor([0.0, 1e-3])
        features = local_features(torch.ones(1, 1, 2, 2), first, second)[0]
        corner = torch.tensor([0.6, 0.8])  # (3, 4 + 0.001) over its length
        torch.testing.assert_close(features[0, 0], corner, atol=1e-3, rtol=0)
        torch.testing.assert_close(features[0, 4], corner, atol=1e-3, rtol=0)
        assert features[1, 3].tolist() == [0, 1]  # only the bias arrives between the cells
        assert features[2, 2].tolist() == [0, 1]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_have_unit_length_in_float32_whatever_comes_in(self, dtype):
        features = local_features(patch_map(2, 3).to(dtype), *random_head())
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 5, 9), atol=1e-5, rtol=0)

    def test_of_half_precision_tokens_are_computed_in_the_type_of_the_head(self):
        grid, head = patch_map(2, 3).bfloat16(), random_head()
        assert torch.equal(local_features(grid, *head), local_features(grid.float(), *head))

    def test_have_unit_length_in_float32_under_autocast(self):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = local_features(patch_map(2, 3), *random_head())
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 5, 9), atol=1e-5, rtol=0)

    def test_give_both_up_convolutions_a_gradient(self):
        first, second = random_head()
        local_features(patch_map(2, 2), first, second)[..., 0].sum().backward()
        for layer in (first, second):
            assert layer.weight.grad.isfinite().all()
            assert layer.weight.grad.abs().sum() > 0


class TestUpConvolution:
    def test_is_a_float32_layer_with_the_default_initialisation_of_pytorch(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            ours = up_convolution(6, 4)
            torch.manual_seed(7)
            plain = nn.ConvTranspose2d(6, 4, 3, 2, 1)
        assert torch.equal(ours.weight, plain.weight)
        assert torch.equal(ours.bias, plain.bias)

    def test_is_float32_also_where_another_type_is_the_default(self):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert up_convolution(2, 2).weight.dtype == torch.float32
        finally:
            torch.set_default_dtype(before)


class TestLocationCentres:
    def test_of_a_224_px_image_reach_from_7_to_217(self):
        centres = location_centres_px(61, 61, patch_size=14)
        assert centres.shape == (61, 61, 2)
        assert centres[0, 0].tolist() == [7, 7]
        assert centres[-1, -1].tolist() == [217, 217]
        assert centres[0, -1].tolist() == [217, 7]  # x first
        assert centres[30, 30].tolist() == [112, 112]  # the middle

    def test_are_a_quarter_of_a_patch_apart(self):
        centres = location_centres_px(5, 9, patch_size=16)
        assert centres[0, :, 0].tolist() == [8, 12, 16, 20, 24, 28, 32, 36, 40]
        assert centres[:, 0, 1].tolist() == [8, 12, 16, 20, 24]

    def test_of_a_single_patch_is_its_middle(self):
        assert location_centres_px(1, 1, patch_size=14).tolist() == [[[7, 7]]]

    @pytest.mark.parametrize("patch_size", [14, 16])
    def test_are_the_centres_of_what_each_location_sees(self, patch_size):
        height, width = 2, 3
        head = random_head(width=1, hidden=1, channels=1)
        with torch.no_grad():
            for layer in head:  # equal positive weights: the gradient of a location spreads evenly about its centre
                layer.weight.copy_(torch.tensor([0.5, 1.0, 0.5])[:, None] * torch.tensor([0.5, 1.0, 0.5]))
                layer.bias.zero_()
        grid = torch.ones(1, 1, height, width, requires_grad=True)
        raw = head[1](torch.relu(head[0](grid)))  # before the normalisation, which one channel would not survive
        centres = location_centres_px(4 * height - 3, 4 * width - 3, patch_size)
        assert raw.shape[2:] == centres.shape[:2]
        patch_x = (torch.arange(width) + 0.5) * patch_size
        patch_y = (torch.arange(height) + 0.5) * patch_size
        for row in range(raw.shape[2]):
            for column in range(raw.shape[3]):
                (seen,) = torch.autograd.grad(raw[0, 0, row, column], grid, retain_graph=True)
                share = seen[0, 0] / seen.sum()
                centre = torch.stack(((share.sum(0) * patch_x).sum(), (share.sum(1) * patch_y).sum()))
                torch.testing.assert_close(centre, centres[row, column], atol=1e-3, rtol=0)
