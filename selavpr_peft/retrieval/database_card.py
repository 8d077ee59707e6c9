"""The card of a published place database, written from what its manifest and its table say."""

import math

import numpy as np
import pyarrow as pa
from huggingface_hub import DatasetCardData

from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.retrieval.manifest import Manifest

TAGS = ["visual-place-recognition", "selavpr", "place-database"]

CARD = """---
{metadata}
---

# {name}

A place database of [SelaVPR](https://arxiv.org/abs/2402.14505): {num_places} places, described so that photographs can
be located among them. It holds descriptions and positions, and no photographs.

| | |
|---|---|
{facts}

```python
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

database = PlaceDatabase.from_pretrained("{repo_id}")
PlaceRecognizer(model, database).recognize("photo.jpg")  # the model it was built with; another one is refused
```

Every file has a checksum, and nothing in it is code or pickle.
"""


def database_card(manifest: Manifest, places: pa.Table, repo_id: str) -> str:
    """Write the card.

    Args:
        manifest: Manifest of the database.
        places: Its table, as it is published.
        repo_id: Repository, OWNER/NAME.
    """
    metadata = DatasetCardData(
        tags=TAGS, configs=[{"config_name": "places", "data_files": "places.parquet", "default": True}]
    )
    facts = _facts(manifest, places)
    return CARD.format(
        metadata=metadata.to_yaml(),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        num_places=f"{manifest.num_places:,}",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )


def _facts(manifest: Manifest, places: pa.Table) -> dict[str, str]:
    preparation, shape = manifest.preprocessing, manifest.local_map_shape
    size = "{} x {}".format(*preparation.image_size)
    columns = [name for name in places.column_names if name not in (KEY, IMAGE)]
    num_images = places.num_rows - places[IMAGE].null_count
    return {
        "columns beside the key": ", ".join(f"`{name}`" for name in columns),
        "paths of images": f"{num_images:,} of {places.num_rows:,}",
        "global descriptors": f"{manifest.descriptor_size} x float32, index `{manifest.index}`",
        "local features": "none" if shape is None else _local_features(manifest.local_dtype, shape),
        "input": f"{size} px, resized `{preparation.resize}`, positions `{manifest.position_interpolation}`",
        "backbone (digest of its weights)": f"`{manifest.backbone}`",
        "adapter (digest of its weights)": f"`{manifest.adapter}`",
        "images that could not be read": f"{len(manifest.unreadable_images):,}",
    }


def _local_features(local_dtype: str, shape: tuple[int, ...]) -> str:
    item_bytes = 1 if local_dtype == "binary" else np.dtype(local_dtype).itemsize
    return f"{' x '.join(map(str, shape))}, `{local_dtype}`, {math.prod(shape) * item_bytes / 1e6:.2f} MB per place"
