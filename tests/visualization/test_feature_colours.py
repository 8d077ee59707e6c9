"""Colours of features: principal components computed right, the same for all pictures, drawn where the patches are."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from peft import get_peft_model
from PIL import Image

from selavpr_peft import SelaConfig
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.visualization import draw_features, feature_colours, patch_tokens
from selavpr_peft.visualization.feature_colours import component_colours, principal_components
from tests.visualization.drawings import all_axes, blank, is_inside


def random_features(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


class TestPrincipalComponents:
    def test_they_are_the_eigenvectors_projections(self):
        features = random_features(0, 50, 6) * [5, 4, 3, 1, 1, 1]
        covariance = np.zeros((6, 6))
        for row in features - features.mean(axis=0):
            covariance += np.outer(row, row)
        values, vectors = np.linalg.eigh(covariance)
        found = principal_components(features)
        for number, direction in enumerate(vectors[:, np.argsort(-values)[:3]].T):
            expected = (features - features.mean(axis=0)) @ direction
            sign = np.sign(expected @ found[:, number])
            np.testing.assert_allclose(found[:, number], sign * expected, atol=1e-9)

    def test_the_sign_is_that_of_the_largest_weight(self):
        line = np.outer([-1.0, 0.0, 2.0], [0.6, -0.8])  # along (0.6, -0.8): the second weighs more, so it is turned
        np.testing.assert_allclose(principal_components(line, 1)[:, 0], [4 / 3, 1 / 3, -5 / 3])

    def test_fewer_rows_than_components_are_filled_with_zeros(self):
        found = principal_components(random_features(0, 2, 5))
        assert found.shape == (2, 3)
        assert (found[:, 2] == 0).all()


class TestComponentColours:
    def test_the_middle_is_grey_and_the_ends_differ_in_lightness(self):
        components = np.zeros((101, 3))
        components[:, 0] = np.linspace(-1, 1, 101)
        colours = component_colours(components)
        np.testing.assert_allclose(colours[50], 0.5)
        np.testing.assert_allclose(colours[[0, 100]], [[0.2] * 3, [0.8] * 3])

    def test_the_second_component_goes_from_blue_to_yellow(self):
        components = np.zeros((101, 3))
        components[:, 1] = np.linspace(-1, 1, 101)
        (red, green, blue), (other_red, other_green, other_blue) = component_colours(components)[[0, 100]]
        assert blue > red == green
        assert other_blue < other_red == other_green

    def test_colours_stay_within_their_range(self):
        colours = component_colours(random_features(1, 500, 3) * 100)
        assert (colours.min(), colours.max()) >= (0, 0)
        assert colours.max() <= 1

    def test_constant_components_are_grey(self):
        np.testing.assert_allclose(component_colours(np.full((4, 3), 7.0)), 0.5)


class TestFeatureColours:
    def test_equal_features_of_different_pictures_have_equal_colours(self):
        first, second = random_features(0, 3, 4, 8), random_features(1, 2, 5, 8)
        second[1, 2] = first[2, 3]
        colours = feature_colours([first, second])
        assert [part.shape for part in colours] == [(3, 4, 3), (2, 5, 3)]
        np.testing.assert_allclose(colours[1][1, 2], colours[0][2, 3])

    def test_patches_keep_their_places(self):
        grid = random_features(0, 3, 4, 8)
        flat = component_colours(principal_components(grid.reshape(12, 8)))
        np.testing.assert_allclose(feature_colours([grid])[0][2, 1], flat[2 * 4 + 1])


class TestPatchTokens:
    def test_they_are_the_models_own_in_the_layout_of_the_grid(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig(local_channels=(8, 4))).eval()
        preprocessing = Preprocessing(image_size=(56, 84))
        image = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 20).convert("RGB")
        found = patch_tokens(model, preprocessing, [image, image])
        with torch.no_grad():
            state = model(pixel_values=preprocessing(image)[None]).last_hidden_state[0]
        assert found.shape == (2, 4, 6, 32)
        token = state[1 + 2 * 6 + 5]  # after the class token; third row, sixth column
        torch.testing.assert_close(found[1, 2, 5], token / token.norm())


class TestDrawFeatures:
    def test_each_picture_stands_over_its_colours(self):
        colours = [np.full((2, 3, 3), 0.25), np.full((4, 4, 3), 0.75)]
        ax = draw_features([blank(60, 40), blank(40, 40)], colours)
        for panel, image, shades in zip(ax.child_axes, [(60, 40), (40, 40)], colours, strict=True):
            picture, patches = panel.images
            assert picture.get_extent() == [0, image[0], image[1], 0]
            left, right, bottom, top = patches.get_extent()
            assert (left, right, bottom - top) == (0, image[0], image[1])
            assert top > image[1]
            np.testing.assert_array_equal(patches.get_array(), shades)
        assert all(is_inside(ax.figure, part) for part in all_axes(ax.figure))

    def test_unequal_numbers_are_refused(self):
        with pytest.raises(ValueError, match="colours must have 2 entries"):
            draw_features([blank(8, 6), blank(8, 6)], [np.zeros((2, 2, 3))])

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_features([blank(8, 6)], [np.zeros((2, 2, 3))], ax=given) is given
