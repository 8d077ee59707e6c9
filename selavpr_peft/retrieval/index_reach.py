"""Set how far an approximate index looks by what it finds, not by a number somebody chose.

Some rows of the database are searched exactly and by the index. How many cells of an inverted file, or what width of a
walk over a graph, a recall takes depends on the descriptors: ten neighbours of crops of the same place share a cell,
those of random vectors are everywhere. So does how many of the rows that short codes find must be compared again.
"""

import math
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int

from selavpr_peft.retrieval.index_kinds import HNSW_LINKS, inverted_file

WANTED_RECALL = 0.995
"""Share of the exact neighbours of rows that an index is set to find. Queries lie further from rows than rows from
each other, and of their neighbours it finds a little less."""

NUM_PROBES = 200
NUM_NEIGHBOURS = 10
STEP = 1.5
"""Factor by which an index is let look further."""

LEAST_GAIN = 0.001
"""It is no longer let look further when this is all the recall gains: the rest is lost in the codes."""

COMPARED_AGAIN = 0.998
"""Share of the exact neighbours that are among the rows compared again, if all cells are looked into."""

MOST_COMPARED = 10_000
"""Rows that are compared again for ten neighbours, at most."""


def set_reach(index: faiss.Index, descriptors: Float[np.ndarray, "N D"]) -> None:
    """Raise the cells, or the width of the walk, until an index finds nearly all of the ten nearest neighbours.

    Args:
        index: A filled faiss index; `nprobe` or `efSearch` and `k_factor`, which its file keeps, are set. An exact one
            is left alone.
        descriptors: What it was filled with.
    """
    owner: Any
    if (cells := inverted_file(index)) is not None:
        owner, name, reach, widest = cells, "nprobe", 1, cells.nlist
    elif isinstance(index, faiss.IndexHNSW):
        walk_of_all = math.ceil(len(descriptors) / HNSW_LINKS)
        owner, name, reach, widest = index.hnsw, "efSearch", 2 * NUM_NEIGHBOURS, walk_of_all
    else:
        return
    probes = descriptors[:: max(1, len(descriptors) // NUM_PROBES)][:NUM_PROBES]
    number = min(NUM_NEIGHBOURS + 1, len(descriptors))  # a row finds itself, too
    _, exact = faiss.knn(probes, descriptors, number, metric=faiss.METRIC_INNER_PRODUCT)
    if cells is not None and owner is not index:
        _set_compared_again(index, cells, probes, exact)
    recall, gain = 0.0, 1.0
    while recall < WANTED_RECALL and gain >= LEAST_GAIN:
        setattr(owner, name, reach)
        now = _share_found(index.search(probes, number)[1], exact)
        recall, gain = now, now - recall
        if reach >= widest:
            return
        reach = min(math.ceil(STEP * reach), widest)


def _set_compared_again(
    index: Any, cells: faiss.IndexIVF, probes: Float[np.ndarray, "Q D"], exact: Int[np.ndarray, "Q K"]
) -> None:
    """Set how many times the wanted rows are compared again: as deep as exact neighbours lie in the order of codes."""
    cells.nprobe = cells.nlist
    _, by_codes = cells.search(probes, min(MOST_COMPARED, index.ntotal))
    ranks = [
        np.append(np.flatnonzero(np.isin(row, neighbours)), [MOST_COMPARED] * len(neighbours))[: len(neighbours)]
        for row, neighbours in zip(by_codes, exact, strict=True)
    ]
    index.k_factor = max(1.0, (np.quantile(ranks, COMPARED_AGAIN) + 1) / exact.shape[1])


def _share_found(found: Int[np.ndarray, "Q K"], exact: Int[np.ndarray, "Q K"]) -> float:
    """Give the share of exact neighbours that were found, every probe itself left out."""
    hits = sum(len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True))
    return (hits - len(exact)) / max(1, exact.size - len(exact))
