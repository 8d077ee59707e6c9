"""How often queries are drawn by the rule of MSLS; what SelaTrainer makes of it is in test_trainer.py."""

import pytest

from selavpr_peft.training.query_weights import msls_weights


def unchecked(function):
    """Give a function without the type checker, which, where on, comes before the function's own errors."""
    return getattr(function, "__wrapped__", function)


class TestMslsWeights:
    def test_golden_case(self):
        notes = ["day_forward", "night_forward", "day_sideways", "night_sideways", "day_forward", "day_sideways"]
        # Q = 6, 2 at night, 3 sideways: night adds 6 / 2 = 3, sideways 6 / 3 = 2.
        assert msls_weights(notes).tolist() == [1, 4, 3, 6, 1, 3]

    def test_night_queries_share_as_much_as_all_queries_weigh_plainly(self):
        notes = ["night_forward"] * 3 + ["day_forward"] * 96 + ["day_sideways"]
        weights = msls_weights(notes)
        assert weights[:3].sum() - 3 == pytest.approx(100)
        assert weights[-1] - 1 == pytest.approx(100)

    @pytest.mark.parametrize(
        ("notes", "missing"),
        [
            (["day_forward", "day_sideways"], "night"),
            (["night_forward", "day_forward"], "sideways"),
            (["night"], "sideways"),
            (["", None], "night"),
            ([], "night"),
        ],
    )
    def test_no_night_or_no_sideways_query_is_an_error(self, notes, missing):
        with pytest.raises(ValueError, match=f"None of the {len(notes)} queries is noted as {missing}"):
            unchecked(msls_weights)(notes)
