"""Evaluate a place database in the form that is kept and searched, asked as users ask it.

What `evaluator.py` measures is the method: exact search, all local features in float32. Here a database is built with
its index and its form of the local features, and every query is given to a `PlaceRecognizer`.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from peft import PeftModel
from tqdm.auto import tqdm

from selavpr_peft.data.schema import KEY, radius_unit
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.evaluation.evaluator import (
    N_VALUES,
    TwoStageResult,
    check_any_readable,
    check_settings,
    positions_of,
)
from selavpr_peft.evaluation.ground_truth import own_and_positives
from selavpr_peft.modeling.packed_linear import packed_weights
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, RecognizedPlace
from selavpr_peft.retrieval.stored_images import StoredImages

logger = logging.getLogger(__name__)


def evaluate_database(
    model: PeftModel,
    queries: Dataset,
    database: Dataset,
    *,
    positive_radius: float | int,
    rerank_num: int = 100,
    local_dtype: str = "float16",
    keep_locations: int | None = None,
    n_values: Sequence[int] = N_VALUES,
    batch_size: int = 16,
) -> TwoStageResult:
    """Locate every query in a place database of a form and compare with where it was taken.

    The database is built in a temporary folder, with the index that suits its size. What counts as found is as in
    `evaluate_two_stage`: a query's own picture does not, and nor does an image that cannot be read.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        queries: Table of places to locate.
        database: Table of places to search.
        positive_radius: Distance up to which a database image shows the query's place, in metres or frames.
        rerank_num: Candidates of retrieval that are re-ranked; those behind them keep their order.
        local_dtype: Form of the local features, one of `description_form.STORED_DTYPES`.
        keep_locations: Local features kept of every database image, at most; None for all.
        n_values: The N of Recall@N.
        batch_size: Database images per forward pass.

    Raises:
        UnreadableImageError: If no query can be read.
        PlaceDatabaseError: If no database image can be read.
        ValueError: If a table is empty, the tables measure positions in different units, or a setting is out of range.
    """
    check_settings(rerank_num, n_values, queries, database)
    own, positives = own_and_positives(queries, database, positive_radius)
    num_candidates = max(rerank_num, *n_values)
    with tempfile.TemporaryDirectory(prefix="selavpr-") as folder:
        kept = PlaceDatabase.build(
            model,
            database,
            Path(folder, "places"),
            local_dtype=local_dtype,
            keep_locations=keep_locations,
            batch_size=batch_size,
        )
        left_out = kept.manifest.unreadable_images
        table_rows = np.flatnonzero(~np.isin(database[KEY][:], left_out))
        with packed_weights(model):
            found, unreadable = _locate_all(
                PlaceRecognizer(model, kept), queries, positions_of(own, table_rows), num_candidates, rerank_num
            )
    check_any_readable(len(queries) - len(unreadable), unreadable, "queries")
    retrieved = [sorted(places, key=lambda place: place.retrieval_rank) for places in found]
    return TwoStageResult.of(
        _as_rows(retrieved, table_rows, num_candidates),
        _as_rows(found, table_rows, num_candidates) if kept.has_local_features else None,
        [np.intersect1d(rows, table_rows) for rows in positives],
        n_values,
        num_database=len(kept),
        radius_unit=radius_unit(database),
        unreadable=[*(f"The image {key} of the database cannot be read." for key in left_out), *unreadable],
    )


def _locate_all(
    recognizer: PlaceRecognizer, queries: Dataset, own: np.ndarray, num_candidates: int, rerank_num: int
) -> tuple[list[list[RecognizedPlace]], list[str]]:
    """Ask where one query after another was taken; gives no place for those that cannot be read, and says why."""
    found: list[list[RecognizedPlace]] = []
    unreadable = []
    images = StoredImages(queries)
    for row, own_row in enumerate(tqdm(own.tolist(), desc="locating", unit="query")):
        try:
            picture = images[row]
        except UnreadableImageError as error:
            logger.warning("left out: %s", error)
            unreadable.append(str(error))
            found.append([])
            continue
        more = int(own_row >= 0)  # room for its own picture, which is then passed over
        places = recognizer.recognize(picture, top_k=num_candidates + more, rerank_num=rerank_num + more)
        found.append([place for place in places if place.row != own_row])
    return found, unreadable


def _as_rows(found: list[list[RecognizedPlace]], table_rows: np.ndarray, num_candidates: int) -> np.ndarray:
    """Give the rows of places in the table that was indexed, -1 behind the last."""
    rows = np.full((len(found), num_candidates), -1)
    for number, places in enumerate(found):
        best = [place.row for place in places[:num_candidates]]
        rows[number, : len(best)] = table_rows[best]
    return rows
