"""Set how far an approximate index looks by what it finds, not by a number somebody chose.

Some rows of the database are searched exactly and by the index. How many cells of an inverted file, or what width of a
walk over a graph, a recall takes depends on the descriptors: ten neighbours of crops of the same place share a cell,
those of random vectors are everywhere.
"""

import math

import faiss
import numpy as np
from jaxtyping import Float, Int

HNSW_LINKS = 32
"""Links of a row in a graph, and twice as many on the lowest level; about so many rows are compared at every step."""

WANTED_RECALL = 0.99
"""Share of the exact neighbours that an index is set to find."""

NUM_PROBES = 200
NUM_NEIGHBOURS = 10
STEP = 1.5
"""Factor by which an index is let look further."""

LEAST_GAIN = 0.0005
"""It is no longer let look further when this is all the recall gains: the rest is lost in the codes."""


def set_reach(index: faiss.Index, descriptors: Float[np.ndarray, "N D"]) -> None:
    """Raise the cells, or the width of the walk, until an index finds 99 % of the ten nearest neighbours.

    Args:
        index: A filled faiss index; `nprobe` or `efSearch`, which its file keeps, are set. An exact one is left alone.
        descriptors: What it was filled with.
    """
    owner: faiss.IndexIVF | faiss.HNSW
    if isinstance(index, faiss.IndexIVF):
        owner, name, reach, widest = index, "nprobe", 1, index.nlist
    elif isinstance(index, faiss.IndexHNSW):
        owner, name, reach, widest = (
            index.hnsw,
            "efSearch",
            2 * NUM_NEIGHBOURS,
            math.ceil(len(descriptors) / HNSW_LINKS),
        )
    else:
        return
    probes = descriptors[:: max(1, len(descriptors) // NUM_PROBES)][:NUM_PROBES]
    number = min(NUM_NEIGHBOURS + 1, len(descriptors))  # a row finds itself, too
    _, exact = faiss.knn(probes, descriptors, number, metric=faiss.METRIC_INNER_PRODUCT)
    recall, gain = 0.0, 1.0
    while recall < WANTED_RECALL and gain >= LEAST_GAIN:
        setattr(owner, name, reach)
        now = _share_found(index.search(probes, number)[1], exact)
        recall, gain = now, now - recall
        if reach >= widest:
            return
        reach = min(math.ceil(STEP * reach), widest)


def _share_found(found: Int[np.ndarray, "Q K"], exact: Int[np.ndarray, "Q K"]) -> float:
    """Give the share of exact neighbours that were found, every probe itself left out."""
    hits = sum(len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True))
    return (hits - len(exact)) / max(1, exact.size - len(exact))
