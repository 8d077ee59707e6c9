"""Search global descriptors with faiss."""

import faiss
import numpy as np
from jaxtyping import Float, Int


def search_exact(
    query_descriptors: Float[np.ndarray, "Q D"], database_descriptors: Float[np.ndarray, "N D"], num_candidates: int
) -> Int[np.ndarray, "Q K"]:
    """Find the database images whose descriptors are most similar to each query's, by inner product.

    Args:
        query_descriptors: Unit vectors, float32.
        database_descriptors: Unit vectors, float32.
        num_candidates: Number wanted; at most N are returned.

    Returns:
        Database rows, most similar first.
    """
    index = faiss.IndexFlatIP(database_descriptors.shape[1])
    index.add(np.ascontiguousarray(database_descriptors))
    _, rows = index.search(np.ascontiguousarray(query_descriptors), min(num_candidates, len(database_descriptors)))
    return rows
