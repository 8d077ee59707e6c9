"""Pictures of a recognition: the query, its candidates and the local features they share.

Needs the extra `viz` (matplotlib); importing this package does not load it, the first drawing does.
"""

from selavpr_peft.visualization.matches import (
    draw_candidates,
    draw_matches,
    draw_recognition,
    save_figure,
)

__all__ = ["draw_candidates", "draw_matches", "draw_recognition", "save_figure"]
