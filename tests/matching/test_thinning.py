"""Some locations of a map: an even grid in its shape, and what is matched there is what was matched before."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from selavpr_peft.matching import (
    count_mutual_matches,
    grid_locations,
    grid_within,
    mutual_matches,
    query_grid,
    thin_out,
)


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class TestGridWithin:
    @pytest.mark.parametrize(
        ("map_size", "num_kept", "grid"),
        [
            ((61, 61), 484, (22, 22)),
            ((61, 61), 930, (30, 30)),
            ((61, 61), 1830, (30, 61)),
            ((61, 61), 3721, (61, 61)),
            ((61, 61), 10**9, (61, 61)),
            ((30, 40), 300, (15, 20)),
            ((30, 40), 5, (1, 5)),
            ((61, 61), 1, (1, 1)),
            ((1, 9), 3, (1, 3)),
            ((4, 1), 1, (1, 1)),
        ],
    )
    def test_golden_cases(self, map_size, num_kept, grid):
        assert grid_within(map_size, num_kept) == grid

    @given(height=st.integers(1, 200), width=st.integers(1, 200), num_kept=st.integers(1, 50_000))
    def test_it_has_no_more_points_than_asked_for_and_fits_into_the_map(self, height, width, num_kept):
        rows, columns = grid_within((height, width), num_kept)
        assert 1 <= rows <= height
        assert 1 <= columns <= width
        assert rows * columns <= num_kept

    def test_fewer_than_one_is_refused(self):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            grid_within((61, 61), 0)


class TestGridLocations:
    @pytest.mark.parametrize(
        ("map_size", "grid", "rows", "columns"),
        [
            ((9, 13), (4, 6), [1, 3, 5, 7], [1, 3, 5, 7, 9, 11]),
            ((9, 13), (2, 3), [1, 7], [1, 5, 11]),  # 2.5 of the odd columns 0 to 5 is rounded to 2
            ((9, 3), (9, 1), list(range(9)), [1]),
            ((1, 2), (1, 2), [0], [0, 1]),
        ],
    )
    def test_golden_cases(self, map_size, grid, rows, columns):
        expected = [row * map_size[1] + column for row in rows for column in columns]
        assert grid_locations(map_size, grid).tolist() == expected

    @pytest.mark.parametrize("rows", [0, 5, 8, 10])
    def test_more_than_the_odd_ones_and_not_all_are_refused(self, rows):
        with pytest.raises(ValueError, match=f"all 9 of a side or from 1 to 4, got {rows}"):
            grid_locations((9, 13), (rows, 6))

    @given(height=st.integers(1, 60), width=st.integers(1, 60), num_kept=st.integers(1, 4000))
    def test_no_location_comes_twice(self, height, width, num_kept):
        locations = grid_locations((height, width), grid_within((height, width), num_kept))
        assert len(set(locations.tolist())) == len(locations)
        assert locations.tolist() == sorted(locations.tolist())


class TestThinOut:
    def test_features_are_those_of_the_grid_s_locations(self):
        features = random_map(2, 9, 13, 8)
        thin = thin_out(features, (3, 5))
        assert thin.shape == (2, 3, 5, 8)
        locations = grid_locations((9, 13), (3, 5))
        assert torch.equal(thin.flatten(1, 2), features.flatten(1, 2)[:, locations])

    def test_the_whole_map_is_kept_as_it_is(self):
        features = random_map(2, 5, 6, 8)
        assert torch.equal(thin_out(features, (5, 6)), features)

    def test_matches_name_locations_of_the_whole_map(self):
        features = random_map(9, 13, 16)
        matches = mutual_matches(features, thin_out(features, (3, 4)))
        locations = grid_locations((9, 13), (3, 4))
        assert torch.equal(matches[:, 0], locations[matches[:, 1]])  # every one matches itself
        assert len(matches) == 12

    def test_counts_are_of_the_kept_locations(self):
        features = random_map(9, 13, 16)
        assert count_mutual_matches(features, thin_out(features, (3, 4))[None]).tolist() == [12]

    def test_the_query_keeps_all_of_the_kind_that_the_database_image_keeps_some_of(self):
        size = (9, 13)
        for grid in [(2, 3), (4, 6), (9, 3), (9, 13), (1, 13)]:
            some, kind = (set(grid_locations(size, points).tolist()) for points in (grid, query_grid(size, grid)))
            assert some <= kind
            parities = {(location // 13 % 2, location % 13 % 2) for location in some}
            assert kind == {n for n in range(9 * 13) if (n // 13 % 2, n % 13 % 2) in parities}
