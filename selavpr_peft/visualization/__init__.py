"""Pictures of what a recognition saw: candidates, matches, attention, descriptors, features, recalls and maps.

Needs the extra `viz` (matplotlib); importing this package does not load it, the first drawing does. What is drawn is
computed by functions without matplotlib, named beside each drawing (docs/pictures.md).
"""

from selavpr_peft.visualization.attention import attention_of_frozen_and_adapted
from selavpr_peft.visualization.candidates import draw_candidates, draw_recognition
from selavpr_peft.visualization.descriptor_shares import descriptor_maps
from selavpr_peft.visualization.feature_colours import draw_features, feature_colours
from selavpr_peft.visualization.figures import save_figure
from selavpr_peft.visualization.heat_maps import draw_attention, draw_descriptor, draw_heat_map, draw_similarity
from selavpr_peft.visualization.matches import draw_matches
from selavpr_peft.visualization.patch_tokens import patch_tokens
from selavpr_peft.visualization.place_map import draw_place_map
from selavpr_peft.visualization.recall_curves import draw_recall_curves

__all__ = [
    "attention_of_frozen_and_adapted",
    "descriptor_maps",
    "draw_attention",
    "draw_candidates",
    "draw_descriptor",
    "draw_features",
    "draw_heat_map",
    "draw_matches",
    "draw_place_map",
    "draw_recall_curves",
    "draw_recognition",
    "draw_similarity",
    "feature_colours",
    "patch_tokens",
    "save_figure",
]
