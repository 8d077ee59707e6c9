"""What a model card says of an adapter's calibration: a section that is replaced alone when the calibration is."""

import re
from collections.abc import Sequence

from selavpr_peft.retrieval.calibration import Calibration

HEADING = "## Calibration"
TABLE = "| what | value |"
SECTION = re.compile(rf"^{HEADING}\n(?:(?!#).*\n)*?{re.escape(TABLE)}\n(?:\|.*\n?)+", re.MULTILINE)
"""From the heading to the end of the table, so that notes below it stay."""


def calibration_section(calibration: Calibration) -> str:
    """Write the section that says where the probabilities hold and what they are worth.

    Args:
        calibration: Of the adapter's weights.
    """
    form, fitted_on, quality = calibration.form, calibration.fitted_on, calibration.quality
    kept, threshold = form["kept_locations"], quality["threshold"]
    radius = f"{fitted_on['positive_radius']:g} {fitted_on['radius_unit']}"
    rows = [
        ("local features", f"`{form['local_dtype']}`, {'all' if kept is None else '{}x{}'.format(*kept['grid'])}"),
        ("candidates re-ranked", form["rerank_num"]),
        ("fitted on", fitted_on["data"] or "places without a name"),
        ("queries", f"{fitted_on['num_queries']}, {fitted_on['num_right']} of them answered rightly within {radius}"),
        ("database images", fitted_on["num_database"]),
        ("Brier score", f"{quality['brier_score']:.3f}"),
        ("Brier score of always saying the share of right answers", f"{quality['brier_score_of_share']:.3f}"),
        ("expected calibration error", f"{quality['expected_calibration_error']:.3f}"),
        (
            f"threshold for {quality['precision']:.0%} right answers",
            "none"
            if threshold is None
            else f"{threshold['probability']:.3f}: {threshold['num_answered']} queries answered,"
            f" {threshold['num_right']} rightly (a share of {threshold['precision_at_least']:.3f} or more with"
            " 95 % confidence)",
        ),
    ]
    return (
        f"{HEADING}\n\n`PlaceRecognizer` gives the probability that the first answer is right. Scores and"
        f" threshold were measured on queries left out of the fit ({quality['num_folds']} blocks); other places and"
        f" conditions can be harder.\n\n{value_table(rows)}"
    )


def with_calibration(card: str, calibration: Calibration, *, before: str) -> str:
    """Bring what a card says of a calibration up to date, and leave all else in it as it is.

    Args:
        card: Text of the card.
        calibration: Of the adapter's weights.
        before: Heading that the section is put before where the card has none yet.
    """
    old = SECTION.search(card)
    if old is not None:
        above, below = card[: old.start()], card[old.end() :]
    else:
        above, heading, below = card.partition(f"{before}\n")
        below = heading + below
    parts = above.rstrip("\n"), calibration_section(calibration), below.strip("\n")
    return "\n\n".join(filter(None, parts)) + "\n"


def value_table(rows: Sequence[tuple[str, object]]) -> str:
    """Lay out names and values in Markdown.

    Args:
        rows: A name and a value each.
    """
    # names of folders may hold anything
    cells = [(name, " ".join(str(value).split()).replace("|", "\\|")) for name, value in rows]
    return "\n".join([TABLE, "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)])
