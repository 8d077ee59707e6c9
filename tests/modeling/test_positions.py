"""Position tables resized by the rule of the original DINOv2 code."""

import math

import pytest
import torch
import torch.nn.functional as F

from selavpr_peft.modeling.positions import official_position_embeddings
from tests import reference


def table(side, width=5, seed=0, dtype=torch.float32):
    return torch.randn(1, side * side + 1, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def transcribed(positions, rows, columns):
    """The resize in the words of `torch.nn.functional`."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[0, 1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(
        grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic", align_corners=False
    )
    assert resized.shape[2:] == (rows, columns)
    return torch.cat((positions[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


class TestOfficialPositionEmbeddings:
    @pytest.mark.parametrize("side", [1, 4, 7, 16, 37])
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (16, 16), (16, 22), (23, 23), (40, 3)])
    def test_equal_both_transcriptions(self, side, rows, columns):
        positions = table(side)
        found = official_position_embeddings(positions, rows * 14, columns * 14, 14)
        assert found.shape == (1, rows * columns + 1, 5)
        expected = reference.positions(positions.double(), rows * 14, columns * 14, 14)
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
        if rows * columns != side * side:
            torch.testing.assert_close(found, transcribed(positions, rows, columns), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(("side", "patch"), [(6, 14), (16, 14), (37, 14), (7, 16)])
    def test_are_the_table_itself_for_a_square_image_of_its_size(self, side, patch):
        positions = table(side)
        assert official_position_embeddings(positions, side * patch, side * patch, patch) is positions

    def test_are_resized_for_an_image_with_as_many_patches_that_is_not_square(self):
        positions = table(6)
        found = official_position_embeddings(positions, 4 * 14, 9 * 14, 14)
        assert found.shape == positions.shape
        torch.testing.assert_close(found, transcribed(positions, 4, 9), atol=1e-6, rtol=0)
        assert (found - positions).abs().max() > 0.1

    def test_are_resized_where_one_side_fits(self):
        positions = table(37)
        found = official_position_embeddings(positions, 37 * 14, 16 * 14, 14)
        torch.testing.assert_close(found, transcribed(positions, 37, 16), atol=1e-6, rtol=0)

    def test_keep_the_position_of_the_cls_token(self):
        positions = table(4)
        assert torch.equal(official_position_embeddings(positions, 28, 42, 14)[:, 0], positions[:, 0])

    def test_differ_from_a_resize_to_the_size_alone(self):
        positions = table(37)
        grid = positions[0, 1:].T.reshape(1, -1, 37, 37)
        plain = F.interpolate(grid, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
        found = official_position_embeddings(positions, 224, 224, 14)[:, 1:]
        assert (found - plain).norm() / plain.norm() > 0.03  # the silent trap: a random table moves by that much

    def test_of_a_constant_table_are_constant(self):
        found = official_position_embeddings(torch.full((1, 17, 3), 2.5), 7 * 14, 3 * 14, 14)
        torch.testing.assert_close(found, torch.full((1, 22, 3), 2.5))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_of_a_half_precision_table_are_computed_in_float32(self, dtype):
        positions = table(16, dtype=dtype)
        found = official_position_embeddings(positions, 140, 98, 14)
        assert found.dtype == dtype
        assert torch.equal(found, official_position_embeddings(positions.float(), 140, 98, 14).to(dtype))

    def test_give_the_table_a_gradient(self):
        positions = table(4).requires_grad_()
        official_position_embeddings(positions, 84, 84, 14).sum().backward()
        torch.testing.assert_close(positions.grad[0, 0], torch.ones(5))
        assert positions.grad[0, 1:].sum().item() == pytest.approx(36 * 5, rel=1e-4)  # 36 patches, weights sum to 1
