"""Matches within phases: a sum over sixteen searches, and all there are where phases do not resemble each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from selavpr_peft.matching import count_matches_within_phases, count_mutual_matches, quantize_local_features


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def phase_by_phase(query, candidates):
    return sum(
        count_mutual_matches(query[row::4, column::4], candidates[:, row::4, column::4])
        for row in range(4)
        for column in range(4)
    )


class TestCountMatchesWithinPhases:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
    def test_it_is_the_sum_over_the_phases(self, dtype):
        query = random_map(13, 17, 64)
        candidates = normalize(random_map(5, 13, 17, 64, seed=1) + query, dim=-1)
        forms = [quantize_local_features(features, dtype) for features in (query, candidates)]
        assert count_matches_within_phases(*forms).tolist() == phase_by_phase(*forms).tolist()

    @settings(deadline=None, max_examples=30)
    @given(height=st.integers(1, 9), width=st.integers(1, 9))
    def test_maps_of_any_size_have_their_phases(self, height, width):
        query, candidates = random_map(height, width, 8), random_map(2, height, width, 8, seed=1)
        found = count_matches_within_phases(query, candidates)
        assert found.tolist() == phase_by_phase(query, candidates).tolist()

    def test_it_counts_all_matches_where_no_phase_resembles_another(self):
        base = random_map(13, 17, 16)
        maps = torch.zeros(3, 13, 17, 256)
        for number, features in enumerate((base, base.flip(0), random_map(13, 17, 16, seed=1))):
            for row in range(4):
                for column in range(4):
                    channels = slice(16 * (4 * row + column), 16 * (4 * row + column) + 16)
                    maps[number, row::4, column::4, channels] = features[row::4, column::4]
        maps = normalize(maps + 0.01 * random_map(3, 13, 17, 256, seed=2), dim=-1)
        expected = count_mutual_matches(maps[0], maps)
        assert count_matches_within_phases(maps[0], maps).tolist() == expected.tolist()
        assert expected[0] == 13 * 17

    def test_signs_are_compared_with_numbers_of_the_query(self):
        query, candidates = random_map(9, 9, 16), random_map(2, 9, 9, 16, seed=1)
        forms = quantize_local_features(query, "int8"), quantize_local_features(candidates, "binary")
        assert count_matches_within_phases(*forms).tolist() == phase_by_phase(*forms).tolist()

    def test_no_candidates_have_no_counts(self):
        assert count_matches_within_phases(random_map(5, 5, 8), torch.empty(0, 5, 5, 8)).shape == (0,)

    def test_features_that_are_no_numbers_are_refused_by_name(self):
        candidates = random_map(2, 5, 5, 8)
        candidates[1, 3, 3, 3] = torch.nan
        with pytest.raises(ValueError, match="local features of the database image hold NaN"):
            count_matches_within_phases(random_map(5, 5, 8), candidates)

    def test_another_number_of_channels_is_refused(self):
        with pytest.raises(ValueError, match="same number of channels"):
            count_matches_within_phases(random_map(5, 5, 8), random_map(2, 5, 5, 16))
