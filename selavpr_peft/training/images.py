"""The images of triplets as batches: decoded and changed in worker processes, stacked in the main one.

Workers keep no state: what a triplet looks like depends on the seed, the round and its position in the round alone, so
any number of workers gives the same batches.
"""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import numpy as np
import torch
import torch.utils.data
from PIL import Image
from torch import Tensor

from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.stored_images import StoredImages
from selavpr_peft.training.augmentation import Augmentation

logger = logging.getLogger(__name__)


class TripletIndex(NamedTuple):
    """Which images make up a triplet.

    Args:
        round: Mining round, counted from 0.
        position: Place of the triplet in its round.
        rows: Rows of the query, of its positive and of its negatives in their tables.
    """

    round: int
    position: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class TripletImages:
    """The pictures of one triplet as network input, or why there are none.

    Args:
        pixel_values: (2 + N, 3, H, W) query, positive and negatives; None if one could not be read.
        error: The name of the image that could not be read, and why.
    """

    pixel_values: Tensor | None
    error: str = ""


class TripletDataset(torch.utils.data.Dataset[TripletImages]):
    """The images of any triplet, by its `TripletIndex`."""

    def __init__(
        self,
        queries: datasets.Dataset,
        database: datasets.Dataset,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        """Bring together where images come from and what is done to them.

        Args:
            queries: Table of the queries.
            database: Table of the database.
            preprocessing: How a picture becomes network input.
            augmentation: How pictures are changed at random.
            seed: Seed of these changes.
        """
        self.queries = StoredImages(queries)
        self.database = StoredImages(database)
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: TripletIndex) -> TripletImages:
        generator = np.random.default_rng([self.seed, index.round, index.position])
        try:
            images = self.augmentation.change_triplet(self._read(index.rows), generator)
        except UnreadableImageError as error:
            return TripletImages(None, str(error))
        return TripletImages(torch.stack([self.preprocessing(image) for image in images]))

    def _read(self, rows: tuple[int, ...]) -> list[Image.Image]:
        query, *others = rows
        return [self.queries[query], *(self.database[row] for row in others)]


def collate_triplets(triplets: list[TripletImages]) -> dict[str, Tensor]:
    """Stack triplets to (B, 2 + N, 3, H, W); one that could not be read is named and left out.

    Args:
        triplets: What `TripletDataset` gave.

    Returns:
        `pixel_values`, empty if no triplet could be read.
    """
    for triplet in triplets:
        if triplet.pixel_values is None:
            logger.warning("triplet left out: %s", triplet.error)
    readable = [triplet.pixel_values for triplet in triplets if triplet.pixel_values is not None]
    return {"pixel_values": torch.stack(readable) if readable else torch.empty(0, 0, 3, 0, 0)}
