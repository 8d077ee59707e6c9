"""Draw how a query of an evaluation was recognised: its candidates, and the matches with the best one."""

from typing import TYPE_CHECKING

from datasets import Dataset
from peft import PeftModel

from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.modeling.preprocessing import Preprocessing, as_rgb
from selavpr_peft.retrieval.matched_points import match_pictures
from selavpr_peft.visualization.candidates import draw_recognition

if TYPE_CHECKING:
    import matplotlib.figure

    import selavpr_peft.evaluation.evaluator

NUM_CANDIDATES = 4


def draw_query_result(
    model: PeftModel,
    preprocessing: Preprocessing,
    queries: Dataset,
    database: Dataset,
    result: "selavpr_peft.evaluation.evaluator.TwoStageResult",
    query: int | None = None,
) -> "matplotlib.figure.Figure":
    """Draw one query with its candidates after re-ranking, and the matches with the first of them.

    Args:
        model: The model that was evaluated; without a local head no matches are drawn.
        preprocessing: How its images were prepared.
        queries: Table of the queries.
        database: Table of the database.
        result: What `evaluate_two_stage` returned.
        query: Row of the query; by default the first one that re-ranking brought to its place, or the first that was
            found, or the first that could be read.
    """
    row = _telling_query(result) if query is None else query
    rows = [int(candidate) for candidate in result.predictions[row][:NUM_CANDIDATES] if candidate >= 0]
    query_image, images = as_rgb(queries[row][IMAGE]), [as_rgb(database[r][IMAGE]) for r in rows]
    return draw_recognition(
        query_image,
        images,
        labels=[f"{rank}. {database[r][KEY]}" for rank, r in enumerate(rows, start=1)],
        are_correct=[r in result.positives[row] for r in rows],
        matches=match_pictures(model, preprocessing, query_image, images[0]) if images else None,
    )


def _telling_query(result: "selavpr_peft.evaluation.evaluator.TwoStageResult") -> int:
    """Pick a query that shows most: wrong by retrieval and right by re-ranking, else right, else the first."""
    before, after = (
        [len(rows) > 0 and rows[0] in found for rows, found in zip(predictions, result.positives, strict=True)]
        for predictions in (result.retrieved, result.predictions)
    )
    gained = [row for row, (was, now) in enumerate(zip(before, after, strict=True)) if now and not was]
    found = [row for row, now in enumerate(after) if now]
    readable = [row for row, rows in enumerate(result.predictions) if (rows >= 0).any()]
    return next(iter([*gained, *found, *readable]), 0)
