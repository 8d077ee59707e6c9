"""Maps: every mark is at the coordinates of its place, and verdicts differ in shape and colour."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from selavpr_peft.data.schema import DEGREES, METRES
from selavpr_peft.visualization import draw_place_map
from selavpr_peft.visualization.place_map import coordinate_names, coordinates
from tests.visualization.drawings import is_inside, rendered

DATABASE = np.array([(395_000.0 + 20 * row, 5_213_000.0 + 5 * row) for row in range(10)])


def marks(ax):
    """Coordinates of what is drawn, by its name in the legend."""
    return {drawn.get_label().split(" (")[0]: np.asarray(drawn.get_offsets()) for drawn in ax.collections}


class TestDrawPlaceMap:
    def test_every_mark_is_at_its_place(self):
        query = DATABASE[4] + (1, -2)
        ax = draw_place_map(DATABASE, query=query, candidates=[4, 8, 3], positives=[3, 4, 5])
        found = marks(ax)
        np.testing.assert_array_equal(found["database"], DATABASE)
        np.testing.assert_array_equal(found["query"], [query])
        np.testing.assert_array_equal(found["positives"], DATABASE[[3, 4, 5]])
        np.testing.assert_array_equal(found["correct"], DATABASE[[4, 3]])
        np.testing.assert_array_equal(found["wrong"], DATABASE[[8]])
        ranks = {text.get_text(): tuple(text.xy) for text in ax.texts}
        assert ranks == {"1": tuple(DATABASE[4]), "2": tuple(DATABASE[8]), "3": tuple(DATABASE[3])}

    def test_ranks_of_one_place_are_written_apart(self):
        ax = draw_place_map(np.repeat(DATABASE[:1], 5, axis=0), candidates=range(5))
        rendered(ax.figure)
        boxes = [text.get_window_extent() for text in ax.texts]
        centres = [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in boxes]
        gaps = [math.dist(a, b) for n, a in enumerate(centres) for b in centres[n + 1 :]]
        assert min(gaps) > boxes[0].width

    def test_without_positives_candidates_are_neither_right_nor_wrong(self):
        assert set(marks(draw_place_map(DATABASE, candidates=[1, 2]))) == {"database", "candidates"}

    def test_no_positives_at_all_make_every_candidate_wrong(self):
        assert set(marks(draw_place_map(DATABASE, candidates=[1, 2], positives=[]))) == {"database", "wrong"}

    def test_verdicts_differ_in_shape_and_colour(self):
        ax = draw_place_map(DATABASE, candidates=[1, 2], positives=[1])
        drawn = {collection.get_label(): collection for collection in ax.collections}
        right, wrong = drawn["correct"], drawn["wrong"]
        assert len(right.get_paths()[0].vertices) != len(wrong.get_paths()[0].vertices)
        assert not np.allclose(right.get_facecolor(), wrong.get_facecolor())

    def test_large_coordinates_are_counted_from_a_round_number_nearby(self):
        ax = draw_place_map(DATABASE)
        rendered(ax.figure)
        assert ax.get_xlabel() == "easting in m from 390,000"
        ticks = {
            float(tick): label.get_text() for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        }
        assert all(label == f"{tick - 390_000:,.0f}" for tick, label in ticks.items())

    def test_small_coordinates_stay_as_they_are(self):
        assert draw_place_map(DATABASE - DATABASE[0]).get_ylabel() == "northing in m"

    def test_a_degree_of_longitude_is_as_long_as_it_is_at_that_latitude(self):
        degrees = np.array([(24.0, 60.0), (24.01, 60.0), (24.0, 60.01)])
        ax = draw_place_map(degrees, is_degrees=True)
        rendered(ax.figure)
        origin, east, north = ax.transData.transform(degrees)
        # at 60 degrees north a degree of longitude is half as long as one of latitude
        assert math.dist(origin, east) == pytest.approx(0.5 * math.dist(origin, north), rel=1e-3)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("longitude in °", "latitude in °")

    def test_metres_are_equally_long_both_ways(self):
        ax = draw_place_map(DATABASE)
        rendered(ax.figure)
        origin, east, north = ax.transData.transform([DATABASE[0], DATABASE[0] + (50, 0), DATABASE[0] + (0, 50)])
        assert math.dist(origin, east) == pytest.approx(math.dist(origin, north))

    @pytest.mark.parametrize("rows", [1, 2, 10])
    def test_everything_lies_on_the_page(self, rows):
        ax = draw_place_map(DATABASE[:rows], query=DATABASE[0], candidates=[0], positives=[0])
        assert is_inside(ax.figure, ax)

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_place_map(DATABASE, ax=given) is given


class TestCoordinates:
    def test_metres_come_before_degrees(self):
        assert coordinate_names(["key", *DEGREES, *METRES]) == ("easting_m", "northing_m")
        assert coordinate_names(["longitude", "latitude"]) == ("latitude", "longitude")

    def test_other_columns_are_refused(self):
        with pytest.raises(
            ValueError, match="'easting_m' and 'northing_m' or 'latitude' and 'longitude', got .'frame'"
        ):
            coordinate_names(["frame"])
        with pytest.raises(ValueError, match=r"needs the columns 'latitude' and 'longitude', got"):
            coordinate_names(METRES, [DEGREES])

    def test_east_comes_before_north_and_a_missing_position_is_nan(self):
        found = coordinates({"latitude": [60.0, None], "longitude": [24.0, None]}, DEGREES)
        np.testing.assert_array_equal(found, [[24.0, 60.0], [np.nan, np.nan]])
