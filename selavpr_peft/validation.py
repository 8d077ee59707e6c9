"""Values of files that may come from strangers: what is asked of them, and messages that say what arrived."""

import re
import reprlib
from collections.abc import Collection

from pydantic import AfterValidator, ValidationError


def one_of(choices: Collection[str]) -> AfterValidator:
    """Annotate a text that must be one of a few.

    Args:
        choices: The texts.
    """

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(map(repr, choices))}")
        return text

    return AfterValidator(check)


def explain(error: ValidationError) -> str:
    """Say which value is wrong, what was expected and what arrived, or which entries are missing.

    Args:
        error: By pydantic.
    """
    problems = [(".".join(map(str, each["loc"])) or "it", each) for each in error.errors(include_url=False)]
    missing = sorted(place for place, problem in problems if problem["type"] == "missing")
    if missing:
        return f"it lacks {', '.join(missing)}"
    place, problem = problems[0]
    if problem["type"] == "json_invalid":
        return f"it is no JSON ({problem['ctx']['error']})"
    if problem["type"] == "extra_forbidden":
        return f"it has an entry {place}, which is not known"
    expected = re.sub("^[A-Z][a-z]+ should", "must", problem["msg"]).removeprefix("Value error, ")
    value = problem["input"]
    return f"{place} {expected}" + ("" if isinstance(value, dict) else f", got {reprlib.repr(value)}")
