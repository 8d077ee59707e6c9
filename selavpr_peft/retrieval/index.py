"""Search global descriptors with faiss."""

import numpy as np
from jaxtyping import Float, Int

from selavpr_peft.retrieval.descriptor_index import DescriptorIndex


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
    return DescriptorIndex.build(database_descriptors).search(query_descriptors, num_candidates)[1]
