"""Evaluate a model by the paper's two stages: retrieve by global descriptors, re-rank by mutual nearest neighbours."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm.auto import tqdm

from selavpr_peft.data.schema import radius_unit
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.evaluation.ground_truth import own_and_positives
from selavpr_peft.evaluation.recall import check_n_values, recall_at_n
from selavpr_peft.matching import count_mutual_matches, rerank
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import encode_places
from selavpr_peft.retrieval.index import search_exact
from selavpr_peft.retrieval.local_feature_file import LocalFeatureFile

N_VALUES = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class TwoStageResult:
    """What an evaluation found.

    Args:
        num_queries: Queries in the denominator, unreadable ones and those without a positive included.
        num_database: Database images that could be read.
        radius_unit: Unit of the positive radius, "frames" or "m".
        retrieval: Recall@N of retrieval, by N.
        reranked: Recall@N after re-ranking, by N; None for a model without local head.
        retrieved: (Q, K) database rows by retrieval, best first; -1 for a query that could not be read.
        predictions: The same after re-ranking; those of retrieval for a model without local head.
        positives: Database rows within the radius of every query.
        num_queries_without_positive: Queries that nothing could be found for.
        unreadable: Images that were left out, with the reason.
    """

    num_queries: int
    num_database: int
    radius_unit: str
    retrieval: dict[int, float]
    reranked: dict[int, float] | None
    retrieved: np.ndarray
    predictions: np.ndarray
    positives: list[np.ndarray]
    num_queries_without_positive: int
    unreadable: list[str]

    @classmethod
    def of(
        cls,
        retrieved: np.ndarray,
        predictions: np.ndarray | None,
        positives: list[np.ndarray],
        n_values: Sequence[int],
        *,
        num_database: int,
        radius_unit: str,
        unreadable: list[str],
    ) -> "TwoStageResult":
        """Compare what was found for every query with what should have been.

        Args:
            retrieved: (Q, K) database rows by retrieval.
            predictions: The same after re-ranking; None for a model without local head.
            positives: Database rows within the radius of every query, those that could be read.
            n_values: The N of Recall@N.
            num_database: Database images that could be read.
            radius_unit: Unit of the positive radius.
            unreadable: Images that were left out, with the reason.
        """
        return cls(
            num_queries=len(retrieved),
            num_database=num_database,
            radius_unit=radius_unit,
            retrieval=recall_at_n(retrieved, positives, n_values),
            reranked=None if predictions is None else recall_at_n(predictions, positives, n_values),
            retrieved=retrieved,
            predictions=retrieved if predictions is None else predictions,
            positives=positives,
            num_queries_without_positive=sum(not len(rows) for rows in positives),
            unreadable=unreadable,
        )

    def as_report(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """Give what is written to a JSON file.

        Args:
            protocol: Everything that must be known to repeat the evaluation.
        """
        report: dict[str, Any] = {
            "protocol": protocol | {"radius_unit": self.radius_unit},
            "num_queries": self.num_queries,
            "num_database": self.num_database,
            "num_queries_without_positive": self.num_queries_without_positive,
            "unreadable_images": self.unreadable,
            "retrieval": {str(n): share for n, share in self.retrieval.items()},
        }
        if self.reranked is not None:
            report["reranked"] = {str(n): share for n, share in self.reranked.items()}
        return report


@dataclass
class _Encoded:
    """Descriptors and local features of the readable rows of one table."""

    features: LocalFeatureFile
    rows: list[int] = field(default_factory=list)
    descriptors: list[Tensor] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    has_local_features: bool = True


def evaluate_two_stage(
    model: nn.Module,
    queries: Dataset,
    database: Dataset,
    preprocessing: Preprocessing | None = None,
    *,
    positive_radius: float | int,
    rerank_num: int = 100,
    n_values: Sequence[int] = N_VALUES,
    batch_size: int = 16,
    num_workers: int = 0,
    is_strict: bool = False,
) -> TwoStageResult:
    """Locate every query in a database and compare with where it was taken.

    A query's own picture in the database is neither found nor a positive. Local features are kept in a temporary file,
    so memory does not grow with the database.

    Args:
        model: An adapted backbone in evaluation mode.
        queries: Table of places to locate.
        database: Table of places to search.
        preprocessing: How a picture becomes network input; None for what the active adapter was trained with.
        positive_radius: Distance up to which a database image shows the query's place, in metres or frames.
        rerank_num: Candidates of retrieval that are re-ranked; those behind them keep their order.
        n_values: The N of Recall@N.
        batch_size: Images per forward pass.
        num_workers: Processes that decode images.
        is_strict: Raise at an unreadable image. Otherwise a database image is left out and a query counts as missed.

    Raises:
        UnreadableImageError: In strict mode, or if no image of a table can be read.
        ValueError: If a table is empty, the tables measure positions in different units, or a setting is out of range.
    """
    check_settings(rerank_num, n_values, queries, database)
    own, positives = own_and_positives(queries, database, positive_radius)
    preprocessing = preprocessing or Preprocessing.of(model.active_peft_config)
    with tempfile.TemporaryDirectory(prefix="selavpr-") as folder:
        options = {"batch_size": batch_size, "num_workers": num_workers, "is_strict": is_strict}
        encoded_database = _encode(model, database, preprocessing, Path(folder, "database"), "database", options)
        encoded_queries = _encode(model, queries, preprocessing, Path(folder, "queries"), "queries", options)
        found = _retrieve(encoded_queries, encoded_database, own, max(rerank_num, *n_values))
        ranked = None
        if encoded_database.has_local_features:
            ranked = _rerank_all(encoded_queries, encoded_database, found, rerank_num)
    return TwoStageResult.of(
        _by_table_row(found, encoded_queries, encoded_database, len(queries)),
        None if ranked is None else _by_table_row(ranked, encoded_queries, encoded_database, len(queries)),
        [np.intersect1d(rows, encoded_database.rows) for rows in positives],
        n_values,
        num_database=len(encoded_database.rows),
        radius_unit=radius_unit(database),
        unreadable=[*encoded_database.unreadable, *encoded_queries.unreadable],
    )


def check_settings(rerank_num: int, n_values: Sequence[int], queries: Dataset, database: Dataset) -> None:
    """Refuse before the long work what would fail after it.

    Args:
        rerank_num: Candidates that are re-ranked.
        n_values: The N of Recall@N.
        queries: Table of places to locate.
        database: Table of places to search.

    Raises:
        ValueError: If a table is empty or a number is out of range.
    """
    if rerank_num < 1:
        raise ValueError(f"rerank_num must be at least 1, got {rerank_num}.")
    check_n_values(n_values)
    for name, places in {"queries": queries, "database": database}.items():
        if not len(places):
            raise ValueError(f"The table of the {name} must have at least one image, got none.")


def check_any_readable(num_readable: int, unreadable: Sequence[str], name: str) -> None:
    """Raise if no image of a table could be read.

    Args:
        num_readable: Images that could.
        unreadable: Why the others could not.
        name: What a message calls the table.

    Raises:
        UnreadableImageError: With the first reason.
    """
    if not num_readable:
        raise UnreadableImageError(
            f"None of the {len(unreadable)} images of the {name} can be read; the first: {unreadable[0]}"
        )


def _encode(
    model: nn.Module,
    places: Dataset,
    preprocessing: Preprocessing,
    path: Path,
    name: str,
    options: dict[str, Any],
) -> _Encoded:
    """Encode a whole table, local features to the file at `path`."""
    encoded = _Encoded(LocalFeatureFile(path))
    for batch in encode_places(model, places, preprocessing, description=f"encoding {name}", **options):
        encoded.unreadable.extend(batch.unreadable.values())
        if not batch.rows:
            continue
        encoded.rows.extend(batch.rows)
        encoded.descriptors.append(batch.global_descriptors)
        encoded.has_local_features = batch.local_features is not None
        if batch.local_features is not None:
            encoded.features.append(batch.local_features)
    check_any_readable(len(encoded.rows), encoded.unreadable, name)
    return encoded


def _retrieve(queries: _Encoded, database: _Encoded, own: np.ndarray, num_candidates: int) -> np.ndarray:
    """Search the readable images, leaving a query's own picture out; results are positions among the readable."""
    own_position = positions_of(own[queries.rows], database.rows)
    if (own_position < 0).all():
        return search_exact(_stack(queries), _stack(database), num_candidates)
    found = search_exact(_stack(queries), _stack(database), num_candidates + 1)
    is_other = found != own_position[:, None]
    is_other[is_other.all(axis=1), -1] = False  # every query loses one candidate, so that all have equally many
    return found[is_other].reshape(len(found), -1)


def positions_of(rows: np.ndarray, present: Sequence[int] | np.ndarray) -> np.ndarray:
    """Turn table rows into positions among those present, -1 for others.

    Args:
        rows: Rows of a table.
        present: Those that could be read.
    """
    position_of = {row: position for position, row in enumerate(present)}
    return np.array([position_of.get(row, -1) for row in rows.tolist()])


def _stack(encoded: _Encoded) -> np.ndarray:
    return torch.cat(encoded.descriptors).numpy()


def _rerank_all(queries: _Encoded, database: _Encoded, found: np.ndarray, rerank_num: int) -> np.ndarray:
    """Re-order the first candidates of every query by their number of mutual matches."""
    ranked = found.copy()
    for number in tqdm(range(len(found)), desc="re-ranking", unit="query"):
        candidates = found[number, :rerank_num]
        query_features = queries.features.read(np.array([number]))[0]
        counts = count_mutual_matches(query_features, database.features.read(candidates))
        ranked[number, :rerank_num] = rerank(counts, torch.from_numpy(candidates)).numpy()
    return ranked


def _by_table_row(found: np.ndarray, queries: _Encoded, database: _Encoded, num_queries: int) -> np.ndarray:
    """Turn positions among the readable images into rows of the tables; unreadable queries get -1."""
    rows = np.full((num_queries, found.shape[1]), -1, dtype=np.int64)
    rows[queries.rows] = np.asarray(database.rows)[found]
    return rows
