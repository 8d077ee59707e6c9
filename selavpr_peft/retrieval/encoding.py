"""Encode the images of a table of places, batch by batch, with decoding in worker processes if wanted."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import datasets
import torch
import torch.utils.data
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from selavpr_peft.data.schema import KEY
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.modeling.packed_linear import packed_weights
from selavpr_peft.modeling.preprocessing import Picture, Preprocessing
from selavpr_peft.retrieval.stored_images import StoredImages

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """Descriptions of some images, and the images that could not be read.

    Args:
        rows: Rows of the table that were encoded, ascending.
        global_descriptors: Their (B, D) descriptors on the CPU.
        local_features: Their (B, H, W, C) local features on the CPU, None without a local head.
        unreadable: Why a row was left out, by row.
    """

    rows: list[int]
    global_descriptors: Float[Tensor, "B D"]
    local_features: Float[Tensor, "B H W C"] | None
    unreadable: dict[int, str]


def encode_places(
    model: nn.Module,
    places: datasets.Dataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    is_strict: bool = False,
    description: str | None = "encoding",
) -> Iterator[EncodedBatch]:
    """Describe the images of a table in its order, with a progress bar.

    Meanwhile the model runs on packed weights (modeling/packed_linear.py): until the last batch has been taken it is
    for inference only.

    Args:
        model: An adapted backbone in evaluation mode.
        places: Table with a column `image`.
        preprocessing: How a picture becomes network input.
        batch_size: Images per forward pass.
        num_workers: Processes that decode images; 0 decodes in this one.
        is_strict: Raise at the first unreadable image instead of reporting it and going on.
        description: What the progress bar says; None shows none.

    Yields:
        Batches in the order of the table; rows of unreadable images are missing from them and named.

    Raises:
        UnreadableImageError: In strict mode, with the name of the image.
        ValueError: If the model gives NaN, infinity or only zeros for an image; the message names it.
    """
    images = _Images(places, preprocessing)
    loader = torch.utils.data.DataLoader(images, batch_size, num_workers=num_workers, collate_fn=list)
    is_silent = description is None
    with packed_weights(model), tqdm(total=len(images), desc=description, unit="image", disable=is_silent) as progress:
        for items in loader:
            readable = [item for item in items if item.pixel_values is not None]
            unreadable = {item.row: item.error for item in items if item.pixel_values is None}
            _report(unreadable, is_strict)
            if readable:
                pixel_values = torch.stack([item.pixel_values for item in readable])
                rows = [item.row for item in readable]
                descriptors, features = describe(model, pixel_values)
                check_descriptions(descriptors, features, _names(places, rows))
                yield EncodedBatch(
                    rows=rows, global_descriptors=descriptors, local_features=features, unreadable=unreadable
                )
            else:
                nothing = torch.empty(0, 0)
                yield EncodedBatch(rows=[], global_descriptors=nothing, local_features=None, unreadable=unreadable)
            progress.update(len(items))


@dataclass(frozen=True)
class _Item:
    row: int
    pixel_values: Tensor | None
    error: str


class _Images(torch.utils.data.Dataset[_Item]):
    """The images of a table as network input; one that cannot be read gives its error instead."""

    def __init__(self, places: datasets.Dataset, preprocessing: Preprocessing) -> None:
        self.images = StoredImages(places)
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> _Item:
        try:
            return _Item(row, self.preprocessing(self.images[row]), "")
        except UnreadableImageError as error:
            return _Item(row, None, str(error))


def _report(unreadable: dict[int, str], is_strict: bool) -> None:
    for message in unreadable.values():
        if is_strict:
            raise UnreadableImageError(message)
        logger.warning("left out: %s", message)


def in_batches(images: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Take photographs in batches, each only when it is asked for.

    Args:
        images: Any iterable of photographs.
        size: Photographs of a batch; the last one may be smaller.

    Raises:
        ValueError: If the size is below 1: none would be taken.
    """
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}.")
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch


@torch.inference_mode()
def describe(
    model: nn.Module, pixel_values: Float[Tensor, "B 3 H W"]
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B h w C"] | None]:
    """Describe prepared images on the model's device.

    Args:
        model: An adapted backbone in evaluation mode.
        pixel_values: Images by `Preprocessing`, on any device.

    Returns:
        Global descriptors and local features on the CPU; None for the latter without a local head.
    """
    output = model(pixel_values=pixel_values.to(next(model.parameters()).device))
    features = output.local_features
    return output.global_descriptors.cpu(), None if features is None else features.cpu()


def check_descriptions(
    descriptors: Float[Tensor, "B D"], features: Float[Tensor, "B H W C"] | None, names: Sequence[str]
) -> None:
    """Raise unless images have descriptions that can be compared.

    Args:
        descriptors: Their global descriptors.
        features: Their local features.
        names: What a message calls them.

    Raises:
        ValueError: Naming an image whose description holds NaN or infinity, or nothing but zeros.
    """
    is_usable = descriptors.isfinite().all(dim=1) & descriptors.any(dim=1)
    if features is not None:
        is_usable &= features.isfinite().flatten(1).all(dim=1) & features.flatten(1).any(dim=1)
    if not is_usable.all():
        raise ValueError(
            f"The model gives NaN, infinity or only zeros for {names[int(is_usable.int().argmin())]}; check the"
            " adapter's weights and the type used."
        )


def _names(places: datasets.Dataset, rows: list[int]) -> list[str]:
    return places[KEY][rows] if KEY in places.column_names else [f"row {row}" for row in rows]
