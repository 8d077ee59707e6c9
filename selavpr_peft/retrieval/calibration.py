"""How likely a first answer is to be right, as a function of the evidence for it.

Evidence is the number of mutual matches of the first place, or the similarity of the descriptors where nothing is
re-ranked. What it is worth depends on how it is found, so a calibration says for which adapter and form it holds.
evaluation/calibration.py fits it; hub/calibration_file.py keeps it beside the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from peft import PeftModel
from scipy.special import expit

from selavpr_peft.retrieval.description_form import DescriptionForm
from selavpr_peft.retrieval.manifest import Manifest

CARRIED_BY = "sela_calibrations"
"""Attribute of a model: calibrations by the digest of the adapter they belong to."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A logistic function of the evidence for a first answer, and what is known of it.

    Args:
        adapter: Digest of the adapter's weights.
        form: How answers are found: by `answer_form`.
        intercept: Log-odds that the first answer is right, without any evidence.
        slope: What one mutual match (or a similarity of 1, where nothing is re-ranked) adds to them; positive.
        fitted_on: Data and protocol, as plain values.
        quality: What was measured on queries that took no part in fitting, as plain values.
    """

    adapter: str
    form: Mapping[str, Any]
    intercept: float
    slope: float
    fitted_on: Mapping[str, Any]
    quality: Mapping[str, Any]

    def probability(self, evidence: float | int) -> float:
        """Estimate the probability that a first answer is right.

        Args:
            evidence: Its mutual matches; its similarity where nothing was re-ranked.
        """
        return float(logistic(self.intercept, self.slope, np.array([evidence], dtype=np.float64))[0])

    def differing(self, form: Mapping[str, Any]) -> list[str]:
        """Name what is otherwise than where it was fitted; nothing where it holds.

        Args:
            form: How answers are found.
        """
        return [name for name in form if self.form.get(name) != form[name]]

    def check_adapter(self, digest: str) -> None:
        """Raise unless it belongs to an adapter.

        Args:
            digest: Of the adapter's weights.

        Raises:
            ValueError: If it was fitted for another one.
        """
        if self.adapter != digest:
            raise ValueError(
                f"The calibration must be of the adapter with digest {digest}, got one of {self.adapter}; fit it anew"
                " with `selavpr calibrate`."
            )


def logistic(intercept: float, slope: float, evidence: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
    """Turn evidence into probabilities.

    Args:
        intercept: Log-odds without evidence.
        slope: Log-odds per unit of evidence.
        evidence: Of some answers.

    Example:
        >>> logistic(-2.0, 0.5, np.array([4.0])).tolist()  # log-odds of 0
        [0.5]
    """
    probabilities: Float[np.ndarray, " Q"] = expit(intercept + slope * evidence)
    return probabilities


def answer_form(manifest: Manifest, rerank_num: int) -> dict[str, Any]:
    """Say how answers are found, as far as the evidence for them depends on it.

    Args:
        manifest: Of the place database.
        rerank_num: Candidates that are re-ranked.

    Returns:
        Plain values: the entries of the database's `DescriptionForm`, and `rerank_num`.
    """
    form = manifest.model_dump(mode="json", include=set(DescriptionForm.model_fields))
    return form | {"rerank_num": rerank_num if manifest.local_map_shape else 0}


def carry_calibration(model: PeftModel, calibration: Calibration) -> None:
    """Let a model carry a calibration; recognisers that are made of the model from then on use it.

    Args:
        model: A model with a SelaVPR adapter.
        calibration: Of one of its adapters; it takes the place of an earlier one.
    """
    vars(model).setdefault(CARRIED_BY, {})[calibration.adapter] = calibration


def calibration_of(model: PeftModel, adapter: str) -> Calibration | None:
    """Give the calibration that a model carries for an adapter; None if there is none.

    Args:
        model: A model.
        adapter: Digest of the adapter's weights, so that none is given once they have changed.
    """
    found: Calibration | None = vars(model).get(CARRIED_BY, {}).get(adapter)
    return found
