"""Match local features as mutual nearest neighbours and re-rank candidates by the number of matches."""

from selavpr_peft.matching.mutual_neighbours import count_mutual_matches, mutual_matches
from selavpr_peft.matching.ranking import rerank

__all__ = ["count_mutual_matches", "mutual_matches", "rerank"]
