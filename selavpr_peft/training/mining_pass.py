"""Describe the images a mining round looks at: global descriptors only, each picture once."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
from datasets import concatenate_datasets
from jaxtyping import Float, Int
from torch import nn

from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import EncodedBatch, encode_places
from selavpr_peft.training.mining import RoundPlan, Similarity
from selavpr_peft.training.places import TrainingPlaces
from selavpr_peft.tuner.head import global_descriptors_only


def describe_round(
    model: nn.Module,
    places: TrainingPlaces,
    plan: RoundPlan,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    precision: AbstractContextManager[object] | None = None,
) -> Similarity:
    """Describe queries and database images of a round with the model as it is.

    A picture that is both query and database image is described once. Descriptors take D x 4 bytes per image; local
    features are not made.

    Args:
        model: An adapted backbone; it is put in evaluation mode and back.
        places: Training places.
        plan: What the round looks at.
        preprocessing: How a picture becomes network input.
        batch_size: Images per forward pass.
        num_workers: Processes that decode images.
        precision: Context to run the model in, for example autocast.

    Returns:
        Similarity of a query with database rows; NaN where a picture could not be read.
    """
    is_new = ~np.isin(places.query_images[plan.queries], places.database_images[plan.database_rows])
    new_queries = plan.queries[is_new]
    tables = [places.database.select(plan.database_rows), places.queries.select(new_queries)]
    table = concatenate_datasets([part.select_columns([IMAGE, KEY]) for part in tables])
    pictures = np.concatenate([places.database_images[plan.database_rows], places.query_images[new_queries]])
    with precision or nullcontext(), global_descriptors_only(model), evaluation_mode(model):
        batches = encode_places(
            model, table, preprocessing, batch_size=batch_size, num_workers=num_workers, description="mining"
        )
        descriptors = _stack(batches, len(table))
    return _similarity(descriptors, pictures, places)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while.

    Args:
        model: Any module; afterwards it is in the mode it was in, also after an error.

    Yields:
        Nothing.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _stack(batches: Iterable[EncodedBatch], num_images: int) -> Float[np.ndarray, "M D"]:
    """Put descriptors in the order of the table; NaN for images that could not be read."""
    descriptors: np.ndarray | None = None
    for batch in batches:
        if not batch.rows:
            continue
        if descriptors is None:
            descriptors = np.full((num_images, batch.global_descriptors.shape[1]), np.nan, dtype=np.float32)
        descriptors[batch.rows] = batch.global_descriptors.numpy()
    if descriptors is None:
        raise ValueError(f"None of the {num_images} images of the mining round can be read.")
    return descriptors


def _similarity(
    descriptors: Float[np.ndarray, "M D"], pictures: Int[np.ndarray, " M"], places: TrainingPlaces
) -> Similarity:
    """Make the function that looks pictures up in the table of descriptors."""
    order = np.argsort(pictures)
    ordered = pictures[order]

    def look_up(numbers: np.ndarray) -> np.ndarray:
        return descriptors[order[np.searchsorted(ordered, numbers)]]

    def similarity(query: int, rows: np.ndarray) -> np.ndarray:
        return look_up(places.database_images[rows]) @ look_up(places.query_images[[query]])[0]

    return similarity
