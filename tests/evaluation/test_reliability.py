"""Scores of probabilities: equal to plain loops and to numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr_peft.evaluation.reliability import (
    Threshold,
    brier_score,
    expected_calibration_error,
    lowest_threshold,
    precision_at_least,
)

# multiples of 1/64 have equal ones among them, and sums of them are exact
answers = st.lists(st.tuples(st.integers(0, 64).map(lambda n: n / 64), st.booleans()), min_size=1, max_size=60)


def arrays(pairs):
    probabilities, is_right = zip(*pairs, strict=True)
    return np.array(probabilities), np.array(is_right)


def threshold(probability, num_answered, num_right):
    return Threshold(
        probability=probability,
        num_answered=num_answered,
        num_right=num_right,
        precision_at_least=precision_at_least(num_right, num_answered),
    )


class TestBrierScore:
    def test_of_certain_and_right_answers_is_zero(self):
        assert brier_score(np.array([1.0, 0.0]), np.array([True, False])) == 0

    @given(answers)
    def test_is_the_mean_of_squared_differences(self, pairs):
        expected = sum((probability - (1 if right else 0)) ** 2 for probability, right in pairs) / len(pairs)
        assert brier_score(*arrays(pairs)) == pytest.approx(expected)


class TestExpectedCalibrationError:
    @given(answers)
    def test_equals_a_loop_over_the_bins(self, pairs):
        expected = 0.0
        for number in range(10):
            is_last = number == 9
            inside = [pair for pair in pairs if number <= pair[0] * 10 and (pair[0] * 10 < number + 1 or is_last)]
            if inside:
                mean = sum(probability for probability, _ in inside) / len(inside)
                share = sum(right for _, right in inside) / len(inside)
                expected += len(inside) / len(pairs) * abs(mean - share)
        assert expected_calibration_error(*arrays(pairs)) == pytest.approx(expected)

    def test_of_the_share_of_right_answers_is_zero(self):
        assert expected_calibration_error(np.full(4, 0.75), np.array([True, True, False, True])) == 0


class TestLowestThreshold:
    def test_gives_as_many_answers_as_keep_the_precision(self):
        probabilities = np.array([0.2, 0.9, 0.8, 0.6, 0.7])
        is_right = np.array([False, True, True, False, True])
        assert lowest_threshold(probabilities, is_right, 1.0) == threshold(0.7, 3, 3)
        assert lowest_threshold(probabilities, is_right, 0.75) == threshold(0.6, 4, 3)

    def test_answers_of_equal_probability_are_given_or_refused_together(self):
        assert lowest_threshold(np.array([0.5, 0.5]), np.array([True, False]), 0.9) is None

    def test_of_no_answers_there_is_none(self):
        assert lowest_threshold(np.array([]), np.array([], dtype=bool), 0.9) is None

    @given(answers, st.sampled_from([0.5, 0.75, 0.99, 1.0]))
    def test_equals_trying_every_probability(self, pairs, precision):
        expected = None
        for least in sorted({probability for probability, _ in pairs}):
            given = [right for probability, right in pairs if probability >= least]
            if sum(given) >= precision * len(given):
                expected = threshold(least, len(given), sum(given))
                break
        assert lowest_threshold(*arrays(pairs), precision) == expected


class TestPrecisionAtLeast:
    def test_so_many_right_answers_would_be_a_chance_of_one_in_twenty(self):
        for num_right, num_answered in ((1, 1), (8, 10), (99, 100)):
            share = precision_at_least(num_right, num_answered)
            chances = [
                math.comb(num_answered, number) * share**number * (1 - share) ** (num_answered - number)
                for number in range(num_right, num_answered + 1)
            ]
            assert sum(chances) == pytest.approx(0.05)

    def test_of_no_right_answer_is_zero(self):
        assert precision_at_least(0, 5) == 0
