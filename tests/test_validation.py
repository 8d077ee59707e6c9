"""Messages about files: where in the file, what was expected, what arrived."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError

from selavpr_peft.validation import explain, one_of


class Inner(BaseModel, strict=True):
    count: Annotated[int, Field(ge=0)]


class Outer(BaseModel, strict=True, extra="forbid"):
    kind: Annotated[str, one_of(("flat", "graph"))]
    inner: Inner
    size: tuple[int, int] = (1, 1)


class TestExplain:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"kind": "flat"}', "it lacks inner"),
            ('{"size": [1]}', "it lacks inner, kind, size.1"),
            ('{"kind": "flat", "inner": {"count": -1}}', "inner.count must be greater than or equal to 0, got -1"),
            ('{"kind": "flat", "inner": {"count": 1.5}}', "inner.count must be a valid integer, got 1.5"),
            ('{"kind": "tree", "inner": {"count": 1}}', "kind must be one of 'flat', 'graph', got 'tree'"),
            ('{"kind": "flat", "inner": {"count": 1}, "b": 2}', "it has an entry b, which is not known"),
            ('{"kind": "flat", "inner": [1]}', "inner must be an object, got [1]"),
            ("[]", "it must be an object, got []"),
            ("{", "it is no JSON (EOF while parsing an object at line 1 column 1)"),
        ],
    )
    def test_it_says_where_what_was_expected_and_what_arrived(self, text, message):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate_json(text)
        assert explain(caught.value) == message

    def test_a_long_value_is_cut(self):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate_json(f'{{"kind": "{"x" * 10_000}", "inner": {{"count": 1}}}}')
        assert len(explain(caught.value)) < 100
