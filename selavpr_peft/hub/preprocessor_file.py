"""`preprocessor_config.json`: how pictures are prepared, for transformers and for this package.

It is the configuration of a stock image processor that resizes to a fixed size with Pillow's antialiasing bilinear
filter and does not crop. `AutoImageProcessor` loads it without code of this package and gives the very numbers of
`Preprocessing` with `antialias` (tests/hub/test_preprocessor_file.py). No stock processor resizes as the official
evaluation does; that is said under a key of our own, which only this package understands.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from selavpr_peft.errors import CheckpointError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.hub.adapter_folder import PREPROCESSOR_NAME
from selavpr_peft.modeling.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

RESIZE_KEY = "selavpr_resize"
"""Not `resize`: transformers makes an attribute of every key, and that is the name of a processor's method."""


def write_preprocessor(folder: Path, preprocessing: Preprocessing) -> None:
    """Write the file into an adapter's folder.

    Args:
        folder: Where.
        preprocessing: What the adapter was trained with.
    """
    text = json.dumps(processor_settings(preprocessing), indent=2)
    write_text_atomically(folder / PREPROCESSOR_NAME, text + "\n")


def read_preprocessor(folder: Path) -> Preprocessing | None:
    """Read the file of an adapter's folder; None where there is none, as in adapters of PEFT's own `save_pretrained`.

    Args:
        folder: Where.

    Raises:
        CheckpointError: If the file is damaged, or describes what SelaVPR does not do, such as cropping.
    """
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size = content["size"]
        found = Preprocessing(image_size=(size["height"], size["width"]), resize=content.get(RESIZE_KEY, "antialias"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} must be as selavpr_peft writes it, with a size of height and width; got {error!r}. Save the"
            " adapter again."
        ) from error
    expected = processor_settings(found)
    differing = sorted(name for name in content.keys() | expected.keys() if _differs(name, content, expected))
    if differing:
        raise CheckpointError(
            f"{path} asks for {', '.join(f'{name}={content.get(name)!r}' for name in differing)}, which SelaVPR does"
            " not do: it resizes to a fixed size without cropping and normalises with ImageNet's mean. Save the"
            " adapter again."
        )
    return found


def processor_settings(preprocessing: Preprocessing) -> dict[str, Any]:
    """Say a preprocessing in the words of transformers' ViTImageProcessor, with our own key beside them.

    Args:
        preprocessing: What to say.
    """
    height, width = preprocessing.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": int(Image.Resampling.BILINEAR),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        RESIZE_KEY: preprocessing.resize,
    }


def _differs(name: str, content: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare what bears on the pixels; a processor saved by transformers again may be of another class."""
    if name in expected:
        return name not in {"image_processor_type", RESIZE_KEY} and content.get(name) != expected[name]
    return name.startswith("do_") and bool(content[name])
