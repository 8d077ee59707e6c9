"""What stands in `calibration.json`: every key, type and range, because the file may come from a stranger."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from selavpr_peft.retrieval.description_form import DescriptionForm, Digest

LARGEST = 10**12
"""Of any number; what is larger is a mistake, and some are too large to be printed."""


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text")
    return text


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_check_printable)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
NumberFromZero = Annotated[float, Field(ge=0, le=LARGEST)]
PositiveNumber = Annotated[float, Field(gt=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveCount = Annotated[int, Field(ge=1, le=LARGEST)]


class Plain(BaseModel, frozen=True, strict=True, extra="forbid", allow_inf_nan=False):
    """Just the keys that are named, none of them converted from another type."""


class AnswerForm(DescriptionForm, extra="forbid"):
    """How answers are found: `calibration.answer_form`."""

    rerank_num: Count


class FittedOn(Plain):
    """Data and protocol: `Calibration.fitted_on`."""

    data: Text | None
    num_queries: PositiveCount
    num_right: Count
    num_database: PositiveCount
    positive_radius: NumberFromZero
    radius_unit: Literal["m", "frames"]

    @model_validator(mode="after")
    def check_counts(self) -> "FittedOn":
        """Refuse more right answers than queries."""
        _check_at_most("right", self.num_right, self.num_queries)
        return self


class Threshold(Plain):
    """What is answered from a probability on: `reliability.Threshold`."""

    probability: Share
    num_answered: PositiveCount
    num_right: Count
    precision_at_least: Share

    @model_validator(mode="after")
    def check_counts(self) -> "Threshold":
        """Refuse more right answers than answers."""
        _check_at_most("right", self.num_right, self.num_answered)
        return self


class Quality(Plain):
    """What was measured on queries left out of the fit: `Calibration.quality`."""

    num_folds: Annotated[int, Field(ge=2, le=LARGEST)]
    brier_score: Share
    brier_score_of_share: Share
    expected_calibration_error: Share
    precision: Share
    threshold: Threshold | None


class CalibrationFile(Plain):
    """The fields of a `Calibration`, and the version of the file."""

    format_version: Literal[1] = 1
    adapter: Digest
    form: AnswerForm
    intercept: Number
    slope: PositiveNumber
    fitted_on: FittedOn
    quality: Quality

    @model_validator(mode="after")
    def check_counts(self) -> "CalibrationFile":
        """Refuse more answers than queries."""
        if self.quality.threshold is not None:
            _check_at_most("answered", self.quality.threshold.num_answered, self.fitted_on.num_queries)
        return self


def _check_at_most(what: str, number: int, highest: int) -> None:
    if number > highest:
        raise ValueError(f"must count {highest} {what} at most, as many as there are, got {number}")
