"""Which database images are positives: the radius belongs to them, in one dimension (frames) and two (metres)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.data.positives import positives_within

# Whole numbers: squared distances are exact, so that "at the radius" means the same to everybody.
numbers = st.integers(-12, 12)


def unchecked(function):
    """Give a function without the shape checker, which, where on, comes before the function's own errors."""
    return getattr(function, "__wrapped__", function)


def as_array(points, dims):
    return np.array(points, dtype=float).reshape(-1, dims)


class TestPositivesWithin:
    def test_the_radius_itself_counts(self):
        found = positives_within(np.array([[10.0]]), np.array([[6.0], [7.0], [13.0], [14.0]]), radius=3)
        assert [rows.tolist() for rows in found] == [[1, 2]]

    def test_distances_in_metres_are_euclidean(self):
        database = np.array([[15.0, 20.0], [16.0, 20.0], [-25.0, 0.0], [18.0, 18.0]])  # 25, 25.6, 25, 25.46 m away
        assert positives_within(np.zeros((1, 2)), database, radius=25)[0].tolist() == [0, 2]

    @settings(deadline=None, max_examples=60)
    @given(st.data(), st.sampled_from([1, 2]), st.integers(0, 15))
    def test_plain_loops_find_the_same(self, data, dims, radius):
        points = st.lists(st.tuples(*[numbers] * dims), max_size=10)
        queries, database = data.draw(points), data.draw(points)
        expected = [
            [
                row
                for row, place in enumerate(database)
                if sum((a - b) ** 2 for a, b in zip(query, place, strict=True)) <= radius**2
            ]
            for query in queries
        ]
        found = positives_within(as_array(queries, dims), as_array(database, dims), radius)
        assert [rows.tolist() for rows in found] == expected

    def test_a_radius_of_zero_takes_the_same_place_only(self):
        assert positives_within(np.array([[2.0]]), np.array([[1.0], [2.0], [2.0]]), radius=0)[0].tolist() == [1, 2]

    def test_rows_can_index_arrays_also_where_there_are_none(self):
        near, far = positives_within(np.array([[0.0], [99.0]]), np.array([[0.0]]), radius=1)
        assert (near.dtype, far.dtype, len(far)) == (np.int64, np.int64, 0)

    def test_metres_and_frames_are_not_compared(self):
        with pytest.raises(ValueError, match="must both have metres or both have frames, got one of each"):
            unchecked(positives_within)(np.zeros((1, 1)), np.zeros((1, 2)), 1.0)

    @pytest.mark.parametrize("radius", [-1.0, float("nan"), float("inf")])
    def test_a_radius_that_is_no_distance_is_refused(self, radius):
        with pytest.raises(ValueError, match=f"must be a number of at least 0, got {radius}"):
            positives_within(np.zeros((1, 1)), np.zeros((1, 1)), radius)
