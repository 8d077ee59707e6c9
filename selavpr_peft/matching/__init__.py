"""Match local features as mutual nearest neighbours and re-rank candidates by the number of matches."""

from selavpr_peft.matching.forms import database_form, query_form
from selavpr_peft.matching.mutual_neighbours import count_mutual_matches, mutual_matches
from selavpr_peft.matching.phases import count_matches_within_phases
from selavpr_peft.matching.quantisation import (
    LOCAL_DTYPES,
    fastest_local_dtype,
    quantize_local_features,
    query_dtype,
)
from selavpr_peft.matching.ranking import num_in_doubt, rerank
from selavpr_peft.matching.thinning import grid_locations, grid_within, query_grid, thin_out
from selavpr_peft.matching.two_pass import order_in_two_passes, rerank_in_two_passes

__all__ = [
    "LOCAL_DTYPES",
    "count_matches_within_phases",
    "count_mutual_matches",
    "database_form",
    "fastest_local_dtype",
    "grid_locations",
    "grid_within",
    "mutual_matches",
    "num_in_doubt",
    "order_in_two_passes",
    "quantize_local_features",
    "query_dtype",
    "query_form",
    "query_grid",
    "rerank",
    "rerank_in_two_passes",
    "thin_out",
]
