"""What a database keeps of an image, and what a query is compared with it in."""

import pytest
import torch
from torch.nn.functional import normalize

from selavpr_peft.matching import count_mutual_matches, database_form, quantize_local_features, query_form


@pytest.fixture
def features():
    return normalize(torch.randn(2, 7, 9, 16, generator=torch.Generator().manual_seed(0)), dim=-1)


class TestDatabaseForm:
    def test_without_a_grid_all_locations_are_quantised(self, features):
        assert torch.equal(database_form(features, "int8"), quantize_local_features(features, "int8"))

    def test_locations_of_a_grid_are_odd_ones(self, features):
        # odd rows of 7: 1, 3, 5; odd columns of 9: 1, 3, 5, 7, of which two are the first and the last
        assert torch.equal(database_form(features, "float32", (3, 2)), features[:, 1::2, [1, 7]])

    def test_form_and_grid_go_together(self, features):
        kept = database_form(features, "binary", (3, 4))
        assert (kept.shape, kept.dtype) == ((2, 3, 4, 2), torch.uint8)


class TestQueryForm:
    def test_a_query_keeps_all_locations_of_the_kind(self, features):
        assert torch.equal(query_form(features[0], "float32", (3, 2)), features[0, 1::2, 1::2])
        assert torch.equal(query_form(features[0], "float32"), features[0])

    @pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("binary", "int8")])
    def test_a_query_is_never_coarser_than_a_byte(self, features, dtype, expected):
        assert torch.equal(query_form(features[0], dtype), quantize_local_features(features[0], expected))

    def test_an_image_finds_everything_that_was_kept_of_it(self, features):
        kept = database_form(features, "int8", (3, 2))
        assert count_mutual_matches(query_form(features[0], "int8", (3, 2)), kept)[0] == 6
