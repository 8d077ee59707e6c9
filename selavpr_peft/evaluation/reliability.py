"""How good estimated probabilities are, and which of them to trust."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import betaincinv

Probabilities = Float[np.ndarray, " Q"]
Outcomes = Bool[np.ndarray, " Q"]


def brier_score(probabilities: Probabilities, is_right: Outcomes) -> float:
    """Compute the mean squared difference of probability and outcome (Brier, 1950); 0 is perfect.

    Args:
        probabilities: That an answer is right.
        is_right: Whether it was.

    Example:
        >>> brier_score(np.array([1.0, 0.5]), np.array([True, False]))
        0.125
    """
    return float(np.mean((probabilities - is_right) ** 2))


def expected_calibration_error(probabilities: Probabilities, is_right: Outcomes, num_bins: int = 10) -> float:
    """Compute by how much probability and share of right answers differ, on average over bins (Guo et al., 2017).

    Args:
        probabilities: That an answer is right.
        is_right: Whether it was.
        num_bins: Bins of equal width in [0, 1]; each counts by its number of answers.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.1]), np.array([True, False, False])), 3)
        0.3
    """
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    excess = np.bincount(bins, weights=probabilities - is_right, minlength=num_bins)
    return float(np.abs(excess).sum() / len(probabilities))


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A probability below which no answer is given.

    Args:
        probability: The threshold; an answer with just this probability is given.
        num_answered: Queries that get an answer.
        num_right: Those whose answer is right.
        precision_at_least: Share of right answers among so many that is exceeded with 95 % confidence (Clopper and
            Pearson, 1934); the threshold was chosen on the same queries, which this does not count.
    """

    probability: float
    num_answered: int
    num_right: int
    precision_at_least: float


def lowest_threshold(probabilities: Probabilities, is_right: Outcomes, precision: float) -> Threshold | None:
    """Find the threshold that leaves most answers while their precision is high enough.

    Args:
        probabilities: That an answer is right.
        is_right: Whether it was.
        precision: Least share of right answers among those given.

    Returns:
        One of the probabilities; None if no threshold does.

    Example:
        >>> lowest_threshold(np.array([0.9, 0.8, 0.7]), np.array([True, True, False]), precision=0.9).probability
        0.8
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    num_right, num_answered = np.cumsum(is_right[order]), np.arange(1, len(ranked) + 1)
    is_last_of_equals = np.append(ranked[:-1] != ranked[1:], True)[: len(ranked)]
    good = np.flatnonzero(is_last_of_equals & (num_right >= precision * num_answered))
    if not len(good):
        return None
    last = good[-1]
    return Threshold(
        probability=float(ranked[last]),
        num_answered=int(num_answered[last]),
        num_right=int(num_right[last]),
        precision_at_least=precision_at_least(int(num_right[last]), int(num_answered[last])),
    )


def precision_at_least(num_right: int, num_answered: int, confidence: float = 0.95) -> float:
    """Give the share of right answers that is exceeded with some confidence (Clopper and Pearson, 1934).

    Args:
        num_right: Right answers.
        num_answered: Answers given.
        confidence: Of the one-sided bound, in (0, 1).

    Example:
        >>> round(precision_at_least(59, 59), 3)  # 0.95 ** 59 is just below 0.05
        0.95
    """
    return float(betaincinv(num_right, num_answered - num_right + 1, 1 - confidence)) if num_right else 0.0
