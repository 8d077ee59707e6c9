"""Some locations of a map: an even grid in its shape, and what is matched there is what was matched before."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from selavpr_peft.matching import count_mutual_matches, grid_locations, grid_within, mutual_matches, thin_out


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class TestGridWithin:
    @pytest.mark.parametrize(
        ("map_size", "num_kept", "grid"),
        [
            ((61, 61), 484, (22, 22)),
            ((61, 61), 930, (30, 31)),
            ((61, 61), 3721, (61, 61)),
            ((61, 61), 10**9, (61, 61)),
            ((30, 40), 300, (15, 20)),
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
    def test_every_fourth_location_is_the_centre_of_a_patch(self):
        # 3 x 4 patches give 9 x 13 locations; patch (r, c) is location (4 r, 4 c), flat 13 * 4 r + 4 c
        expected = [52 * row + 4 * column for row in range(3) for column in range(4)]
        assert grid_locations((9, 13), (3, 4)).tolist() == expected

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
