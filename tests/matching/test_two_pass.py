"""Re-ranking in two passes: the best exactly, the others by the first pass."""

import pytest
import torch
from torch.nn.functional import normalize

from selavpr_peft.matching import (
    count_mutual_matches,
    order_in_two_passes,
    quantize_local_features,
    rerank,
    rerank_in_two_passes,
    two_pass,
)


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def query():
    return random_map(9, 9, 32)


@pytest.fixture
def candidates(query):
    """Candidates that resemble the query less and less, in mixed order."""
    shares = torch.tensor([0.2, 1.5, 0.9, 0.0, 0.6, 1.2, 0.4, 0.05])[:, None, None, None]
    return normalize(random_map(8, 9, 9, 32, seed=1) + shares * query, dim=-1)


def in_two_passes(query, candidates, rows, dtype, **options):
    forms = [quantize_local_features(features, dtype) for features in (query, candidates)]
    return rerank_in_two_passes(query, forms[0], candidates, forms[1], rows, **options)


class TestRerankInTwoPasses:
    @pytest.mark.parametrize("dtype", ["int8", "binary"])
    def test_comparing_all_again_is_the_exact_order(self, query, candidates, dtype):
        rows = torch.arange(100, 108)
        exact = rerank(count_mutual_matches(query, candidates), rows)
        assert in_two_passes(query, candidates, rows, dtype, num_exact=8).tolist() == exact.tolist()
        assert in_two_passes(query, candidates, rows, dtype, num_exact=50).tolist() == exact.tolist()

    def test_the_first_place_is_the_exact_one_and_the_rest_is_that_of_the_first_pass(self, query, candidates):
        rows = torch.arange(8)
        forms = [quantize_local_features(features, "binary") for features in (query, candidates)]
        first_pass = rerank(count_mutual_matches(*forms), rows)
        found = in_two_passes(query, candidates, rows, "binary", num_exact=3)
        best = first_pass[:3].sort().values
        assert found[:3].tolist() == rerank(count_mutual_matches(query, candidates[best]), best).tolist()
        assert found[3:].tolist() == first_pass[3:].tolist()

    def test_equal_counts_keep_the_order_of_retrieval(self, query):
        same = query.expand(4, -1, -1, -1)
        rows = torch.tensor([7, 3, 9, 1])
        assert in_two_passes(query, same, rows, "int8", num_exact=2).tolist() == [7, 3, 9, 1]

    def test_only_the_best_are_compared_exactly(self, query, candidates, monkeypatch):
        compared = []

        def spy(one, many):
            compared.append((str(many.dtype), len(many)))
            return count_mutual_matches(one, many)

        monkeypatch.setattr(two_pass, "count_mutual_matches", spy)
        in_two_passes(query, candidates, torch.arange(8), "int8", num_exact=2)
        assert compared == [("torch.int8", 8), ("torch.float32", 2)]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_exact": 0}, "num_exact must be at least 1, got 0"),
            ({"candidates": random_map(8, 9, 9, 16)}, "must have the same number of channels, .* got 32 .* and 16"),
        ],
    )
    def test_a_mistake_is_told_before_the_first_pass(self, query, candidates, monkeypatch, settings, message):
        forms = [quantize_local_features(features, "int8") for features in (query, candidates)]
        settings = {"candidates": candidates, "num_exact": 1} | settings
        monkeypatch.setattr(two_pass, "count_mutual_matches", None)
        with pytest.raises(ValueError, match=message):
            rerank_in_two_passes(query, forms[0], candidate_forms=forms[1], rows=torch.arange(8), **settings)

    def test_at_least_one_is_compared_again_after_any_first_pass(self, query, candidates):
        with pytest.raises(ValueError, match="num_exact must be at least 1, got 0"):
            order_in_two_passes(torch.arange(8), query, candidates, num_exact=0)
