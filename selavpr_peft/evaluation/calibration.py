"""Fit how likely a first answer is to be right, from queries whose position is known.

One logistic function of the evidence (Platt, 1999): two numbers are about what some hundred queries can determine, and
more evidence never means less probability. Its quality is measured on queries that were left out of the fit, in blocks
of neighbouring queries, because pictures that follow one another are alike.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from scipy.special import logit

from selavpr_peft.data.schema import KEY, radius_unit
from selavpr_peft.evaluation.ground_truth import own_and_positives
from selavpr_peft.evaluation.reliability import brier_score, expected_calibration_error, lowest_threshold
from selavpr_peft.retrieval.calibration import Calibration, answer_form, logistic
from selavpr_peft.retrieval.place_recognizer import PlaceRecognizer
from selavpr_peft.retrieval.stored_images import StoredImages

MIN_QUERIES = 50
MIN_OF_EACH = 5
"""Right and wrong answers needed, each."""
NUM_FOLDS = 10
PRECISION = 0.99
"""Of the answers that a robot may act on."""
MAX_STEPS = 100


def fit_calibration(
    recognizer: PlaceRecognizer,
    queries: Dataset,
    *,
    positive_radius: float | int,
    rerank_num: int = 100,
    batch_size: int = 16,
    data: str | None = None,
) -> Calibration:
    """Locate queries and fit the probability that the first answer is right.

    Args:
        recognizer: Model and database in the form in which they will be used.
        queries: Table of places; those that the database does not have teach it to doubt.
        positive_radius: Distance up to which an answer is right, in metres or frames.
        rerank_num: Candidates that are re-ranked; the calibration holds for this number only.
        batch_size: Queries per forward pass.
        data: What queries and database are called in the calibration; None where they have no names.

    Raises:
        UnreadableImageError: If a query cannot be read.
        ValueError: If there are too few queries, or too few right or wrong answers among them, a query's own picture
            is in the database, positions or radius cannot be compared, or more evidence does not speak for a right
            answer.
    """
    own, positives = own_and_positives(queries, recognizer.database.places, positive_radius)
    _check_queries(queries, own)
    images, found = StoredImages(queries), []
    for start in range(0, len(images), batch_size):
        batch = [images[row] for row in range(start, min(start + batch_size, len(images)))]
        found += recognizer.recognize(batch, top_k=1, rerank_num=rerank_num, batch_size=batch_size)
    evidence = np.array([places[0].evidence for places in found], dtype=np.float64)
    is_right = np.array([places[0].row in rows for places, rows in zip(found, positives, strict=True)])
    _check_outcomes(is_right)
    intercept, slope = fit_logistic(evidence, is_right)
    if slope <= 0:
        raise ValueError(
            f"More evidence must speak for a right answer, but its weight in the fit is {slope:.3g}; the evidence of"
            " these queries tells nothing. Check the adapter with `selavpr evaluate`."
        )
    return Calibration(
        adapter=recognizer.database.manifest.adapter,
        form=answer_form(recognizer.database.manifest, rerank_num),
        intercept=intercept,
        slope=slope,
        fitted_on={
            "data": data,
            "num_queries": len(queries),
            "num_right": int(is_right.sum()),
            "num_database": len(recognizer.database),
            "positive_radius": positive_radius,
            "radius_unit": radius_unit(queries),
        },
        quality=measured_quality(left_out_probabilities(evidence, is_right), is_right),
    )


def fit_logistic(evidence: Float[np.ndarray, " Q"], is_right: Bool[np.ndarray, " Q"]) -> tuple[float, float]:
    """Fit log-odds that are linear in the evidence, by Newton's method with halved steps (Lin, Lin and Weng, 2007).

    Targets are Platt's: a little inside 0 and 1, so that the fit is finite also where evidence separates all right
    answers from all wrong ones.

    Args:
        evidence: Of every answer.
        is_right: Whether it was right.

    Returns:
        Intercept, and slope per unit of evidence; a slope of 0 where all evidence is equal.
    """
    num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())
    target = np.where(is_right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    if evidence.min() == evidence.max():  # their deviation may be more than 0, by rounding
        return float(logit(target.mean())), 0.0
    centre, spread = float(evidence.mean()), float(evidence.std())
    design = np.stack([np.ones_like(evidence), (evidence - centre) / spread], axis=1)
    weights = np.zeros(2)
    for _ in range(MAX_STEPS):
        probability = logistic(0.0, 1.0, design @ weights)
        gradient = design.T @ (probability - target)
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        while _loss(design @ (weights - step), target) > _loss(design @ weights, target) + 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    slope = weights[1] / spread
    return float(weights[0] - slope * centre), float(slope)


def left_out_probabilities(
    evidence: Float[np.ndarray, " Q"], is_right: Bool[np.ndarray, " Q"], num_folds: int = NUM_FOLDS
) -> Float[np.ndarray, " Q"]:
    """Estimate every probability by a fit without the query and its neighbours.

    Args:
        evidence: Of every answer, in the order in which the queries were taken.
        is_right: Whether it was right.
        num_folds: Blocks of neighbouring queries that are left out in turn.
    """
    probabilities = np.empty(len(evidence))
    for left_out in np.array_split(np.arange(len(evidence)), num_folds):
        is_kept = np.ones(len(evidence), dtype=bool)
        is_kept[left_out] = False
        probabilities[left_out] = logistic(*fit_logistic(evidence[is_kept], is_right[is_kept]), evidence[left_out])
    return probabilities


def measured_quality(probabilities: Float[np.ndarray, " Q"], is_right: Bool[np.ndarray, " Q"]) -> dict[str, Any]:
    """Put together what is told of a calibration's quality.

    Args:
        probabilities: Estimated without the query in question.
        is_right: Whether its answer was right.

    Returns:
        Plain values. `brier_score_of_share` is what always giving the share of right answers would have.
    """
    threshold = lowest_threshold(probabilities, is_right, PRECISION)
    share = np.full(len(is_right), is_right.mean())
    return {
        "num_folds": NUM_FOLDS,
        "brier_score": brier_score(probabilities, is_right),
        "brier_score_of_share": brier_score(share, is_right),
        "expected_calibration_error": expected_calibration_error(probabilities, is_right),
        "precision": PRECISION,
        "threshold": None if threshold is None else asdict(threshold),
    }


def _loss(log_odds: Float[np.ndarray, " Q"], target: Float[np.ndarray, " Q"]) -> float:
    return float(np.sum(np.logaddexp(0, log_odds) - target * log_odds))


def _check_queries(queries: Dataset, own: Int[np.ndarray, " Q"]) -> None:
    """Refuse before the long work what would fail after it, or mislead."""
    if len(queries) < MIN_QUERIES:
        raise ValueError(f"A calibration needs at least {MIN_QUERIES} queries, got {len(queries)}.")
    answered_by_itself = np.flatnonzero(own >= 0)
    if len(answered_by_itself):
        raise ValueError(
            f"Queries must be other pictures than those of the database, got {len(answered_by_itself)} of them, the"
            f" first {queries[KEY][int(answered_by_itself[0])]}; a picture finds itself with more evidence than any"
            " other query."
        )


def _check_outcomes(is_right: Bool[np.ndarray, " Q"]) -> None:
    num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())
    if min(num_right, num_wrong) < MIN_OF_EACH:
        raise ValueError(
            f"A calibration needs at least {MIN_OF_EACH} right and {MIN_OF_EACH} wrong first answers, got {num_right}"
            f" and {num_wrong}; add queries that are {'harder' if num_wrong < num_right else 'easier'}, "
            f"{'such as places that the database does not have' if num_wrong < num_right else 'or train the adapter'}."
        )
