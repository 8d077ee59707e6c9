"""Heat maps: each patch is drawn over its part of the picture, on a scale that is the same wherever it must be."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from selavpr_peft.visualization import draw_attention, draw_descriptor, draw_heat_map, draw_similarity
from selavpr_peft.visualization.heat_maps import common_limit, percent_above_mean, relative_to_mean
from tests.visualization.drawings import all_axes, blank, is_inside, rendered


def heat_of(ax):
    """The heat map drawn on some axes, over the grey picture."""
    _, overlay = ax.images
    return np.asarray(overlay.get_array())


def random_map(seed, height=4, width=6):
    return np.random.default_rng(seed).uniform(0.1, 1.0, size=(height, width))


class TestScales:
    def test_multiples_of_the_mean_have_the_mean_one(self):
        heat = random_map(0)
        expected = [[value / (sum(map(sum, heat)) / 24) for value in row] for row in heat]
        np.testing.assert_allclose(relative_to_mean(heat), expected)

    def test_percentages_above_the_mean_have_the_mean_zero(self):
        assert percent_above_mean(random_map(0)).mean() == pytest.approx(0, abs=1e-9)

    def test_the_limit_leaves_out_the_most_extreme_hundredth_of_all_maps(self):
        first, second = np.linspace(0, 1, 100).reshape(10, 10), np.zeros((10, 10))
        second[0, 0] = -50.0
        assert common_limit(first, second) == pytest.approx(
            np.sort(np.append(first, [50.0] + [0] * 99))[197], abs=0.02
        )

    def test_maps_of_zeros_still_have_a_scale(self):
        assert common_limit(np.zeros((2, 2))) == 1.0


class TestDrawHeatMap:
    def test_the_grid_covers_the_whole_picture(self):
        ax = draw_heat_map(blank(60, 40), random_map(0), label="heat")
        grey, overlay = ax.images
        assert grey.get_extent() == overlay.get_extent() == [0, 60, 40, 0]

    def test_a_hot_patch_is_drawn_over_its_part_of_the_picture(self):
        heat = np.zeros((4, 6))
        heat[1, 4] = 1.0  # of 60 x 40: x 40-50, y 10-20
        ax = draw_heat_map(blank(60, 40), heat, label="heat", limit=1.0)
        picture = rendered(ax.figure).astype(float)
        box = ax.get_window_extent()
        top = len(picture) - box.y1
        inside = picture[round(top) : round(top + box.height), round(box.x0) : round(box.x1)]
        rows, columns = np.indices(inside.shape[:2])
        brightness = inside.sum(axis=-1) - np.median(inside.sum(axis=-1))
        centre = np.array([(columns * brightness).sum(), (rows * brightness).sum()]) / brightness.sum()
        np.testing.assert_allclose(centre * 60 / box.width, (45, 15), atol=1.0)

    def test_the_picture_is_grey_under_the_heat(self):
        ax = draw_heat_map(blank(8, 6, (255, 0, 0)), random_map(0), label="heat")
        assert set(np.unique(ax.images[0].get_array())) == {76}  # the luma of red

    def test_signed_heat_is_white_at_zero(self):
        ax = draw_heat_map(blank(8, 6), np.array([[-1.0, 0.0, 3.0]]), label="heat", is_signed=True, limit=3.0)
        overlay = ax.images[1]
        assert overlay.get_clim() == (-3, 3)
        np.testing.assert_allclose(overlay.cmap(overlay.norm(0.0))[:3], 0.97, atol=0.01)

    def test_the_bar_says_what_the_heat_is(self):
        ax = draw_heat_map(blank(60, 40), random_map(0), label="share of what", title="over it")
        assert [bar.get_xlabel() for bar in ax.child_axes] == ["share of what"]
        assert ax.get_title() == "over it"
        assert is_inside(ax.figure, ax)

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_heat_map(blank(8, 6), random_map(0), label="heat", ax=given) is given


class TestDrawAttention:
    def test_both_attentions_have_one_scale_and_the_change_is_their_difference(self):
        frozen, adapted = random_map(0), random_map(1)
        ax = draw_attention(blank(60, 40), frozen, adapted)
        before, after, change = ax.child_axes
        assert before.images[1].get_clim() == after.images[1].get_clim()
        np.testing.assert_allclose(heat_of(before), frozen / frozen.mean())
        np.testing.assert_allclose(heat_of(change), adapted / adapted.mean() - frozen / frozen.mean())
        low, high = change.images[1].get_clim()
        assert low == -high < 0
        assert [panel.get_title() for panel in ax.child_axes] == ["frozen backbone", "adapted", "change"]

    @pytest.mark.parametrize("size", [(90, 40), (40, 40), (40, 60)])
    def test_everything_lies_on_the_page(self, size):
        ax = draw_attention(blank(*size), random_map(0), random_map(1))
        assert all(is_inside(ax.figure, part) for part in all_axes(ax.figure))

    def test_given_axes_are_used(self):
        given, other = Figure(layout="constrained").subplots(2, 1)
        assert draw_attention(blank(8, 6), random_map(0), random_map(0), ax=given) is given
        rendered(given.figure)
        assert (len(given.child_axes), other.child_axes) == (3, [])


class TestDrawDescriptor:
    def test_shares_are_drawn_in_percent_above_the_mean_patch(self):
        ax = draw_descriptor(blank(8, 6), np.array([[0.1, 0.3]]))
        np.testing.assert_allclose(heat_of(ax), [[-50, 50]])
        assert is_inside(ax.figure, ax)

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_descriptor(blank(8, 6), random_map(0), ax=given) is given


class TestDrawSimilarity:
    def test_both_pictures_are_drawn_on_one_scale_under_their_similarity(self):
        shares = [np.array([[0.1, 0.3]]), np.array([[0.15, 0.25]])]
        ax = draw_similarity([blank(60, 40), blank(40, 40)], shares)
        left, right = ax.child_axes
        np.testing.assert_allclose(heat_of(left), [[-50, 50]])
        np.testing.assert_allclose(heat_of(right), [[-25, 25]])
        assert left.images[1].get_clim() == right.images[1].get_clim()
        assert ax.get_title() == "cosine similarity 0.400"
        assert all(is_inside(ax.figure, part) for part in all_axes(ax.figure))

    def test_unequal_numbers_are_refused(self):
        with pytest.raises(ValueError, match="shares must have 2 entries"):
            draw_similarity([blank(8, 6), blank(8, 6)], [random_map(0)])

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_similarity([blank(8, 6)] * 2, [random_map(0)] * 2, ax=given) is given
