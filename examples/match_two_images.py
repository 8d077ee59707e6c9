"""Match two images of a place and draw the mutual nearest neighbours.

Prints the number of matches and where the picture is.

    python examples/match_two_images.py --backbone facebook/dinov2-large --images one.jpg two.jpg
"""

import argparse
from pathlib import Path

import torch

from selavpr_peft import SelaConfig
from selavpr_peft.data.toy_city import draw_view
from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
from selavpr_peft.modeling.preprocessing import Preprocessing, read_image
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.matched_points import match_points
from selavpr_peft.visualization import draw_matches, save_figure

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument("--images", nargs=2, help="two image files; two views of a toy city without them")
arguments = parser.parse_args()

# 1. Two pictures of the same place.
first, second = map(read_image, arguments.images) if arguments.images else (draw_view(3, "day"), draw_view(3, "dusk"))

# 2. Their local features.
model = (
    load_adapted_model(arguments.backbone)
    if arguments.backbone
    else adapt_freshly(toy_backbone(), SelaConfig(), seed=0)
)
config = model.active_peft_config
preprocess = Preprocessing.of(config)
with torch.no_grad():
    features = model(pixel_values=torch.stack([preprocess(first), preprocess(second)])).local_features

# 3. Mutual nearest neighbours, as points in the original pictures.
points = match_points(
    features[0],
    features[1],
    query_size=first.size,
    database_size=second.size,
    input_size=config.image_size,
    patch_size=config.backbone_patch_size,
)
print(f"{len(points.similarities)} mutual matches")

# 4. A picture of the strongest.
axes = draw_matches(first, second, points.query_points_px, points.database_points_px, points.similarities)
save_figure(axes.figure, Path("matches.png"))
print("drawn to matches.png")
