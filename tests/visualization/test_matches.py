"""Pictures of matches: every point lands on its pixel, and nothing but the chosen matches is drawn."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from selavpr_peft.visualization import draw_matches
from selavpr_peft.visualization.matches import PairLayout, lay_out_pair, spread_matches
from tests.visualization.drawings import blank, points, rendered


def random_points(count, width, height, seed=0):
    return np.random.default_rng(seed).uniform((0, 0), (width, height), size=(count, 2))


def line_ends(ax):
    """Give the drawn matches as an array (K, 2 ends, 2), or none."""
    collections = [child for child in ax.get_children() if isinstance(child, LineCollection)]
    return np.array([segment for lines in collections for segment in lines.get_segments()]).reshape(-1, 2, 2)


class TestDrawMatches:
    def test_lines_join_the_points_at_their_place_in_each_image(self):
        # heights 50 and 100: the query is drawn twice as large, 80 wide; a gap of 3; so the database begins at 83
        ax = draw_matches(blank(40, 50), blank(60, 100), points((10.5, 20.5), (0, 0)), points((30.5, 70.5), (60, 100)))
        ends = line_ends(ax).tolist()
        assert sorted(ends) == [[[0, 0], [143, 100]], [[21, 41], [113.5, 70.5]]]
        assert (ax.get_xlim(), ax.get_ylim()) == ((0, 143), (100, 0))

    @pytest.mark.parametrize(("query_size", "database_size"), [((40, 50), (60, 100)), ((64, 48), (30, 20))])
    def test_a_point_at_a_pixels_centre_is_drawn_at_that_pixel(self, query_size, database_size):
        query, database = blank(*query_size), blank(*database_size)
        query.putpixel((7, 13), (255, 0, 0))
        database.putpixel((21, 5), (0, 0, 255))
        ax = draw_matches(query, database, points((7.5, 13.5)), points((21.5, 5.5)))
        drawn = line_ends(ax)[0]
        for artist in (*ax.collections, ax.title, *ax.child_axes):
            artist.set_visible(False)  # leave the images alone on the canvas
        picture = rendered(ax.figure).astype(float)
        positions = ax.transData.transform(drawn)
        for colour, (x, y_from_below) in zip((0, 2), positions, strict=True):
            weights = picture[..., colour] - picture.min(axis=-1)  # white paper counts for nothing
            rows, columns = np.indices(weights.shape) + 0.5
            centre = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
            np.testing.assert_allclose(centre, (x, len(picture) - y_from_below), atol=1.0)

    def test_no_more_than_max_matches_are_drawn_and_the_best_is_on_top(self):
        query_points, database_points = random_points(200, 80, 60), random_points(200, 80, 60, seed=1)
        similarities = np.random.default_rng(2).uniform(0.1, 0.9, size=200)
        similarities[137] = 0.95
        ax = draw_matches(blank(80, 60), blank(80, 60), query_points, database_points, similarities, max_matches=25)
        ends = line_ends(ax)
        assert len(ends) == 25
        np.testing.assert_allclose(ends[-1, 0], query_points[137])
        assert ax.get_title(loc="left") == "200 matches, 25 drawn"

    def test_similarities_colour_the_lines_and_add_a_colour_bar(self):
        ends = (random_points(3, 80, 60), random_points(3, 80, 60))
        ax = draw_matches(blank(80, 60), blank(80, 60), *ends, np.array([0.2, 0.9, 0.5]))
        (lines,) = (child for child in ax.get_children() if isinstance(child, LineCollection))
        assert lines.get_array().tolist() == [0.2, 0.5, 0.9]  # the best last, above the others
        assert lines.get_clim() == (0.2, 0.9)
        assert [bar.get_ylabel() for bar in ax.child_axes] == ["cosine similarity"]

    def test_equal_similarities_do_not_stretch_the_colours(self):
        ax = draw_matches(blank(80, 60), blank(80, 60), points((1, 1)), points((2, 2)), np.array([0.75]))
        (lines,) = (child for child in ax.get_children() if isinstance(child, LineCollection))
        np.testing.assert_allclose(lines.get_clim(), (0.70, 0.75))
        assert ax.get_title(loc="left") == "1 match"

    def test_without_similarities_there_is_no_colour_bar(self):
        ax = draw_matches(blank(80, 60), blank(80, 60), random_points(3, 80, 60), random_points(3, 80, 60))
        assert (ax.figure.axes, ax.child_axes) == ([ax], [])
        assert ax.get_title(loc="left") == "3 matches"

    @pytest.mark.parametrize("similarities", [None, np.zeros(0)])
    def test_no_matches_give_the_two_images_alone(self, similarities):
        ax = draw_matches(blank(80, 60), blank(80, 60), points(), points(), similarities)
        assert (len(ax.images), len(line_ends(ax)), ax.get_title(loc="left")) == (2, 0, "no matches")
        rendered(ax.figure)

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_matches(blank(8, 6), blank(8, 6), points((1, 1)), points((2, 2)), ax=given) is given

    def test_grey_images_are_drawn_grey(self):
        ax = draw_matches(Image.new("L", (8, 6), 100), blank(8, 6), points(), points())
        assert (np.asarray(ax.images[0].get_array()) == 100).all()

    def test_unequal_numbers_are_refused(self):
        unchecked = getattr(draw_matches, "__wrapped__", draw_matches)  # the shape checker, where on, comes before us
        with pytest.raises(ValueError, match=r"database_points_px must have 2 entries.* got 1"):
            unchecked(blank(8, 6), blank(8, 6), random_points(2, 8, 6), random_points(1, 8, 6))
        with pytest.raises(ValueError, match=r"similarities must have 2 entries.* got 3"):
            unchecked(blank(8, 6), blank(8, 6), random_points(2, 8, 6), random_points(2, 8, 6), np.zeros(3))

    def test_missing_matplotlib_is_answered_with_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "selavpr_peft\[viz\]"'):
            draw_matches(blank(8, 6), blank(8, 6), points(), points())

    def test_importing_the_package_does_not_load_matplotlib(self):
        code = "import sys; sys.path[:] = {!r}; import selavpr_peft.visualization; print('matplotlib' in sys.modules)"
        run = subprocess.run([sys.executable, "-c", code.format(sys.path)], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"


class TestLayOutPair:
    def test_images_of_equal_height_keep_their_size(self):
        assert lay_out_pair((100, 40), (100, 70)) == PairLayout(
            query_scale=1.0, database_scale=1.0, database_left=43.0, width=113.0, height=100.0
        )

    def test_the_lower_image_is_enlarged_whichever_it_is(self):
        layout = lay_out_pair((100, 40), (25, 30))  # the database image four times as large: 120 wide
        assert (layout.query_scale, layout.database_scale) == (1.0, 4.0)
        assert (layout.database_left, layout.width) == (43.0, 163.0)


class TestSpreadMatches:
    def test_each_part_of_the_image_comes_before_a_second_match_of_any(self):
        # 100 x 100 in four cells of 50: three matches in the first cell, one in the last
        locations = points((10, 10), (20, 20), (30, 30), (80, 80))
        similarities = np.array([0.7, 0.9, 0.8, 0.1])
        assert spread_matches(locations, similarities, (100, 100), max_matches=4).tolist() == [1, 3, 2, 0]
        assert spread_matches(locations, similarities, (100, 100), max_matches=2).tolist() == [1, 3]

    def test_without_similarities_earlier_matches_come_first(self):
        locations = points((80, 80), (10, 10), (20, 20))
        assert spread_matches(locations, None, (100, 100), max_matches=4).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("max_matches", [1, 7, 60, 500])
    def test_at_most_max_matches_are_kept_each_once_and_the_best_first(self, max_matches):
        similarities = np.random.default_rng(1).uniform(size=300)
        rows = spread_matches(random_points(300, 80, 60), similarities, (60, 80), max_matches=max_matches)
        assert len(rows) == len(set(rows.tolist())) == min(300, max_matches)
        assert rows[0] == similarities.argmax()

    def test_kept_matches_cover_more_of_the_image_than_the_most_similar_ones(self):
        locations = random_points(300, 80, 60)
        similarities = 1 - locations[:, 0] / 80  # all the best at the left edge
        rows = spread_matches(locations, similarities, (60, 80), max_matches=30)
        assert np.ptp(locations[np.argsort(-similarities)[:30], 0]) < 15
        assert np.ptp(locations[rows, 0]) > 60

    def test_no_matches_stay_none(self):
        assert spread_matches(points(), np.zeros(0), (60, 80), max_matches=5).tolist() == []

    def test_fewer_than_one_is_refused(self):
        with pytest.raises(ValueError, match="max_matches must be at least 1, got 0"):
            spread_matches(points(), None, (60, 80), max_matches=0)
