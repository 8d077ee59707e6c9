"""Recall@N: worked cases, a plain loop, and what must hold of any predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.evaluation import recall_at_n


@st.composite
def predictions_and_positives(draw):
    num_queries, num_candidates, num_database = draw(st.integers(1, 6)), draw(st.integers(1, 8)), 12
    row = st.lists(st.integers(0, num_database - 1), min_size=num_candidates, max_size=num_candidates, unique=True)
    predictions = [draw(row) for _ in range(num_queries)]
    positives = [sorted(draw(st.sets(st.integers(0, num_database - 1), max_size=3))) for _ in range(num_queries)]
    return np.array(predictions), [np.array(rows, dtype=np.int64) for rows in positives]


def recall_in_a_loop(predictions, positives, n):
    num_found = 0
    for candidates, found in zip(predictions.tolist(), positives, strict=True):
        if any(candidate in found.tolist() for candidate in candidates[:n]):
            num_found += 1
    return num_found / len(predictions)


class TestRecallAtN:
    def test_golden_case(self):
        predictions = np.array([[7, 3, 9], [4, 5, 6], [1, 2, 0], [8, 0, 5]])
        positives = [np.array([3, 4]), np.array([6]), np.array([1]), np.array([2])]
        # found at rank 2, 3, 1 and never
        assert recall_at_n(predictions, positives, n_values=(1, 2, 3)) == {1: 0.25, 2: 0.5, 3: 0.75}

    def test_a_query_counts_once_however_many_positives_it_finds(self):
        assert recall_at_n(np.array([[1, 2], [5, 6]]), [np.array([1, 2]), np.array([7])], (2,)) == {2: 0.5}

    def test_queries_without_positives_stay_in_the_denominator(self):
        nothing = np.array([], dtype=np.int64)
        assert recall_at_n(np.array([[0], [0], [0], [0]]), [np.array([0]), nothing, nothing, nothing], (1,)) == {
            1: 0.25
        }

    def test_no_prediction_is_never_a_hit(self):
        assert recall_at_n(np.array([[-1, -1], [-1, 3]]), [np.array([0]), np.array([3])], (1, 2)) == {1: 0.0, 2: 0.5}

    def test_beyond_the_last_candidate_nothing_is_added(self):
        assert recall_at_n(np.array([[4, 3], [1, 2]]), [np.array([3]), np.array([9])], (2, 100)) == {2: 0.5, 100: 0.5}

    def test_no_candidates_find_nothing(self):
        assert recall_at_n(np.empty((2, 0), dtype=int), [np.array([3]), np.array([9])], (1,)) == {1: 0.0}

    def test_the_values_of_n_are_the_fields_by_default(self):
        assert list(recall_at_n(np.array([[0]]), [np.array([0])])) == [1, 5, 10, 20]

    @settings(deadline=None, max_examples=60)
    @given(predictions_and_positives())
    def test_it_equals_a_plain_loop_and_never_falls_as_n_grows(self, case):
        n_values = tuple(range(1, 11))
        shares = recall_at_n(*case, n_values=n_values)
        assert shares == {n: recall_in_a_loop(*case, n) for n in n_values}
        assert sorted(shares.values()) == list(shares.values())

    @pytest.mark.parametrize("shape", [(0, 3), (3,), (1, 2, 3)])
    def test_predictions_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"shape \(Q, K\) with at least one query, got \("):
            recall_at_n(np.zeros(shape, dtype=int), [])

    def test_another_number_of_positives_than_queries_is_refused(self):
        with pytest.raises(ValueError, match="Expected positives for 2 queries, got 1"):
            recall_at_n(np.zeros((2, 3), dtype=int), [np.array([1])])

    @pytest.mark.parametrize("n_values", [(), (0,), (5, -1)])
    def test_values_of_n_below_one_are_refused(self, n_values):
        with pytest.raises(ValueError, match="n_values must be whole numbers of at least 1, got"):
            recall_at_n(np.zeros((1, 3), dtype=int), [np.array([1])], n_values)
