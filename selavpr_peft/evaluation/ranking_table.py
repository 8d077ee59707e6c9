"""What an evaluation found for every query, one candidate a row: to see where a method fails, or to compare two."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from jaxtyping import Int
from pyarrow import csv, parquet

from selavpr_peft.data.schema import KEY, positions
from selavpr_peft.evaluation.evaluator import TwoStageResult
from selavpr_peft.files import write_atomically

SUFFIXES = (".csv", ".parquet")


def ranking_table(result: TwoStageResult, queries: Dataset, database: Dataset) -> pa.Table:
    """List the candidates of every query, best first.

    Args:
        result: Of `evaluate_two_stage` on these tables.
        queries: Table of the queries.
        database: Table of the database images.

    Returns:
        A row for each query and candidate: `query` and `database` (their keys), `rank` from 1 (after re-ranking, where
        there is any), `retrieval_rank` from 1, `distance` between their positions in metres or frames, and
        `is_positive`. Queries that could not be read have no rows.
    """
    read = np.flatnonzero((result.predictions >= 0).all(axis=1))
    predictions = result.predictions[read]
    num_candidates = predictions.shape[1]
    query_rows, candidates = np.repeat(read, num_candidates), predictions.reshape(-1)
    is_positive = [np.isin(result.predictions[row], result.positives[row]) for row in read]
    offsets = positions(queries)[query_rows] - positions(database)[candidates]
    return pa.table(
        {
            "query": pa.array(queries[KEY][:]).take(query_rows),
            "database": pa.array(database[KEY][:]).take(candidates),
            "rank": np.tile(np.arange(1, num_candidates + 1), len(read)),
            "retrieval_rank": retrieval_ranks(result.retrieved[read], predictions).reshape(-1),
            "distance": np.linalg.norm(offsets, axis=1),
            "is_positive": np.concatenate(is_positive),
        }
    )


def retrieval_ranks(retrieved: Int[np.ndarray, "Q K"], predictions: Int[np.ndarray, "Q K"]) -> Int[np.ndarray, "Q K"]:
    """Give the rank that retrieval gave to each candidate.

    Args:
        retrieved: Database rows by retrieval, best first; no row twice for a query.
        predictions: The same rows in another order.

    Returns:
        Ranks from 1, in the order of the predictions.

    Example:
        >>> retrieval_ranks(np.array([[7, 4, 9]]), np.array([[9, 7, 4]])).tolist()
        [[3, 1, 2]]
    """
    ranks = np.empty_like(retrieved)
    np.put_along_axis(ranks, predictions.argsort(axis=1), retrieved.argsort(axis=1) + 1, axis=1)
    return ranks


def check_table_name(path: str | Path) -> None:
    """Raise before long work if a table cannot be written under a name.

    Args:
        path: File.

    Raises:
        ValueError: If its suffix is none of SUFFIXES.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"A table of rankings must end in {' or '.join(SUFFIXES)}, got {path}.")


def write_ranking_table(table: pa.Table, path: str | Path) -> None:
    """Write a table of rankings, all of it or nothing.

    Args:
        table: By `ranking_table`.
        path: A CSV or parquet file, by its suffix.

    Raises:
        ValueError: If the suffix is another one.
    """
    check_table_name(path)
    write = csv.write_csv if Path(path).suffix.lower() == ".csv" else parquet.write_table
    write_atomically(Path(path), lambda temporary: write(table, temporary))
