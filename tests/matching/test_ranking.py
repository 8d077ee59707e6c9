"""Re-ranking: descending scores, retrieval order among equals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.matching import num_in_doubt, rerank


def unchecked(function):
    """Give a function without the shape checker, which, where on, comes before the function's own errors."""
    return getattr(function, "__wrapped__", function)


class TestRerank:
    def test_the_highest_score_comes_first(self):
        assert rerank(torch.tensor([5, 1, 9]), torch.tensor([40, 41, 42])).tolist() == [42, 40, 41]

    def test_every_query_is_ranked_by_itself(self):
        scores = torch.tensor([[1, 2, 3], [3, 1, 2]])
        candidates = torch.tensor([[7, 8, 9], [9, 8, 7]])
        assert rerank(scores, candidates).tolist() == [[9, 8, 7], [9, 7, 8]]

    def test_equal_scores_keep_retrieval_order(self):
        candidates = torch.arange(1000).flip(0)
        assert rerank(torch.zeros(1000), candidates).tolist() == candidates.tolist()

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.integers(-3, 3), max_size=40))
    def test_the_order_is_that_of_score_then_position(self, scores):
        expected = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
        ranked = rerank(torch.tensor(scores, dtype=torch.long), torch.arange(len(scores)) + 100)
        assert ranked.tolist() == [position + 100 for position in expected]

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
    def test_no_candidates_stay_none(self, shape):
        ranked = rerank(torch.zeros(shape), torch.zeros(shape, dtype=torch.long))
        assert (tuple(ranked.shape), ranked.dtype) == (shape, torch.int64)

    def test_infinite_scores_are_scores(self):
        scores = torch.tensor([-torch.inf, 0.5, torch.inf])
        assert rerank(scores, torch.tensor([1, 2, 3])).tolist() == [3, 2, 1]

    def test_scores_that_are_no_numbers_are_refused(self):
        with pytest.raises(ValueError, match="must be numbers, got NaN; check"):
            rerank(torch.tensor([1.0, torch.nan]), torch.tensor([1, 2]))

    def test_another_number_of_scores_than_candidates_is_refused(self):
        with pytest.raises(ValueError, match=r"one score per candidate, got \(2,\) scores for \(3,\) candidates"):
            unchecked(rerank)(torch.tensor([1, 2]), torch.tensor([1, 2, 3]))


class TestNumInDoubt:
    @pytest.mark.parametrize(("window", "number"), [(0.0, 0), (0.05, 0), (0.1, 2), (0.31, 3), (2.0, 4)])
    def test_candidates_within_the_window_are_counted_and_a_lone_one_is_not(self, window, number):
        assert num_in_doubt(torch.tensor([0.5, 0.4375, 0.25, -0.5]), window) == number

    def test_equals_are_always_in_doubt(self):
        assert num_in_doubt(torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.25, 0.25]]), 0.0).tolist() == [3, 0]

    @pytest.mark.parametrize("shape", [(0,), (2, 0)])
    def test_no_candidates_leave_no_doubt(self, shape):
        assert num_in_doubt(torch.zeros(shape), 0.1).tolist() == torch.zeros(shape[:-1]).tolist()

    @pytest.mark.parametrize("window", [-0.1, float("nan")])
    def test_a_window_below_zero_is_refused(self, window):
        with pytest.raises(ValueError, match="0 or more, got"):
            num_in_doubt(torch.ones(3), window)
