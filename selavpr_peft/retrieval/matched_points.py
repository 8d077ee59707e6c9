"""Where matched local features lie in the two original images."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import PeftModel
from PIL import Image
from torch import Tensor

from selavpr_peft.matching import mutual_matches
from selavpr_peft.modeling.local_head import location_centres_px
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import describe


@dataclass(frozen=True, kw_only=True)
class MatchedPoints:
    """The mutual nearest neighbours of a query and a database image as points.

    Args:
        query_points_px: x and y in the original query image; pixel centres lie at +0.5.
        database_points_px: x and y of their partners in the original database image.
        similarities: Cosine similarity of every pair.
    """

    query_points_px: Float[np.ndarray, "K 2"]
    database_points_px: Float[np.ndarray, "K 2"]
    similarities: Float[np.ndarray, " K"]


def match_points(
    query_features: Float[Tensor, "H W C"],
    database_features: Float[Tensor, "h w C"],
    *,
    query_size: tuple[int, int],
    database_size: tuple[int, int],
    input_size: tuple[int, int],
    patch_size: int,
) -> MatchedPoints:
    """Match two images and place the matches in both.

    Args:
        query_features: Local features of the query.
        database_features: Local features of the database image.
        query_size: Width and height of the original query image, in pixels.
        database_size: Width and height of the original database image, in pixels.
        input_size: Height and width both images were resized to for the network.
        patch_size: Patch size of the backbone in pixels.
    """
    matches = mutual_matches(query_features, database_features)
    query, database = query_features.flatten(0, 1)[matches[:, 0]], database_features.flatten(0, 1)[matches[:, 1]]
    return MatchedPoints(
        query_points_px=_points_px(matches[:, 0], query_features, query_size, input_size, patch_size),
        database_points_px=_points_px(matches[:, 1], database_features, database_size, input_size, patch_size),
        similarities=(query * database).sum(dim=1).numpy(),
    )


def match_pictures(
    model: PeftModel, preprocessing: Preprocessing, query: Image.Image, database: Image.Image
) -> MatchedPoints | None:
    """Describe two pictures and match them; None for a model without local head.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        preprocessing: How the pictures become network input.
        query: RGB picture.
        database: RGB picture.
    """
    _, features = describe(model, torch.stack([preprocessing(image) for image in (query, database)]))
    if features is None:
        return None
    return match_points(
        *features,
        query_size=query.size,
        database_size=database.size,
        input_size=preprocessing.image_size,
        patch_size=model.active_peft_config.backbone_patch_size,
    )


def _points_px(
    locations: Int[Tensor, " K"],
    features: Tensor,
    original_size: tuple[int, int],
    input_size: tuple[int, int],
    patch_size: int,
) -> Float[np.ndarray, "K 2"]:
    """Turn flat locations of a feature map into points of the original image."""
    centres = location_centres_px(features.shape[0], features.shape[1], patch_size).flatten(0, 1)[locations]
    height, width = input_size
    return (centres * torch.tensor([original_size[0] / width, original_size[1] / height])).numpy()
