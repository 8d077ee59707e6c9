"""The settings of one SelaVPR adapter: what `adapter_config.json` holds.

Defaults are the paper's (arXiv 2402.14505) and those of the official code (backbone/dinov2/block.py, network.py).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from peft import PeftConfig
from peft.utils import PeftType

from selavpr_peft.registration import PEFT_TYPE

LAYOUT_VERSION = 1
"""Version of the tensor names and their meaning in `adapter_model.safetensors`."""

PositionInterpolation = Literal["backbone", "official"]
Resize = Literal["antialias", "official"]
ADAPTED_MODULES = ("attention", "mlp")


@dataclass
class SelaConfig(PeftConfig):
    """Describe a SelaVPR adapter: serial and parallel adapters in the blocks, a GeM descriptor, a local-feature head.

    Every field may differ between adapters that share one backbone. Fields that say what the adapter was trained
    with (`image_size`, `resize`) are read by loaders and the command line; the model itself accepts any image size
    that is a multiple of the patch size.

    Raises:
        ValueError: If a field has a value that cannot work; the message names field, value and remedy.
    """

    bottleneck_ratio: float = field(
        default=0.5,
        metadata={"help": "Hidden width of an adapter as a share of the backbone's width, in (0, 1] (paper: 0.5)."},
    )
    parallel_scale: float = field(
        default=0.2,
        metadata={"help": "Factor on the parallel adapter's output before it joins the MLP's (official block.py)."},
    )
    use_serial_adapter: bool = field(
        default=True, metadata={"help": "Train an adapter after the attention of every block (paper, section 3.2)."}
    )
    use_parallel_adapter: bool = field(
        default=True, metadata={"help": "Train an adapter beside the MLP of every block (paper, section 3.2)."}
    )
    use_local_head: bool = field(
        default=True, metadata={"help": "Make dense local features for re-ranking; without it they are None."}
    )
    local_channels: Sequence[int] = field(
        default=(256, 128),
        metadata={"help": "Output channels of the two up-convolutions of the local head (official network.py)."},
    )
    gem_p: float = field(
        default=3.0, metadata={"help": "Initial exponent of generalised-mean pooling; it is trained (paper: 3)."}
    )
    gem_eps: float = field(
        default=1e-6, metadata={"help": "Smallest value a channel is clamped to before pooling (official network.py)."}
    )
    position_interpolation: PositionInterpolation = field(
        default="backbone",
        metadata={
            "help": "How the position table is resized to the patch grid: 'backbone' is the backbone's own rule, "
            "'official' that of the original DINOv2 code, which published SelaVPR checkpoints were trained with."
        },
    )
    image_size: Sequence[int] = field(
        default=(224, 224), metadata={"help": "Height and width in pixels the adapter was trained with (paper: 224)."}
    )
    resize: Resize = field(
        default="antialias",
        metadata={
            "help": "How images were brought to image_size: 'antialias' resizes with an antialiasing filter, "
            "'official' resizes the normalised tensor without one, as the official evaluation does."
        },
    )
    layers_to_transform: Sequence[int] | int | None = field(
        default=None, metadata={"help": "Indices of the blocks that get adapters, counted from 0; None means all."}
    )
    target_modules: Sequence[str] | str | None = field(
        default=None, metadata={"help": "Which of 'attention' and 'mlp' are wrapped; None means both."}
    )
    backbone_num_layers: int | None = field(
        default=None, metadata={"help": "Number of blocks of the backbone; filled in when the adapter is created."}
    )
    backbone_hidden_size: int | None = field(
        default=None, metadata={"help": "Width of the backbone; filled in when the adapter is created."}
    )
    backbone_patch_size: int | None = field(
        default=None, metadata={"help": "Patch size of the backbone in pixels; filled in with the adapter."}
    )
    backbone_fingerprint: str | None = field(
        default=None,
        metadata={"help": "Type and digest of the backbone's weights, 'float32:...'; written when it is saved."},
    )
    layout_version: int = field(
        default=LAYOUT_VERSION, metadata={"help": "Version of the adapter file's layout; not for users to set."}
    )

    def __post_init__(self) -> None:
        """Check every field and bring what came back from JSON to its own type."""
        if self.task_type is not None:
            raise ValueError(
                f"task_type must be None, got {str(self.task_type)!r}: PEFT's task wrappers are made for text and lose"
                " the images. Leave it out."
            )
        super().__post_init__()
        self.peft_type = PeftType[PEFT_TYPE]
        self._check_numbers()
        self._check_switches()
        self.local_channels = _pair_of_counts("local_channels", self.local_channels, "for example (256, 128)")
        self.image_size = _pair_of_counts("image_size", self.image_size, "height and width, for example (224, 224)")
        _check_choice("position_interpolation", self.position_interpolation, get_args(PositionInterpolation))
        _check_choice("resize", self.resize, get_args(Resize))
        self.layers_to_transform = _layer_indices(self.layers_to_transform)
        self.target_modules = _adapted_modules(self.target_modules)
        if self.layout_version != LAYOUT_VERSION:
            raise ValueError(
                f"layout_version must be {LAYOUT_VERSION}, got {self.layout_version!r}: the adapter was written by"
                " another release of selavpr_peft; install one that reads it (see CHANGELOG.md)."
            )

    def adapter_width(self, hidden_size: int) -> int:
        """Give the hidden width of an adapter on a backbone of this width: `int(hidden_size * bottleneck_ratio)`.

        Args:
            hidden_size: Width of the backbone.

        Raises:
            ValueError: If the result is below 1.
        """
        width = int(hidden_size * self.bottleneck_ratio)
        if width < 1:
            raise ValueError(
                f"bottleneck_ratio {self.bottleneck_ratio} leaves a hidden width of {width} on a backbone of width"
                f" {hidden_size}; at least {math.ceil(1e6 / hidden_size) / 1e6:g} is needed."
            )
        return width

    def adapts_layer(self, index: int) -> bool:
        """Tell whether the block at `index` (counted from 0) is one of `layers_to_transform`."""
        return self.layers_to_transform is None or index in self.layers_to_transform  # type: ignore[operator]

    def _check_numbers(self) -> None:
        _check_number("bottleneck_ratio", self.bottleneck_ratio, lambda ratio: 0 < ratio <= 1, "in (0, 1]", "0.5")
        _check_number("parallel_scale", self.parallel_scale, math.isfinite, "finite", "0.2")
        _check_number("gem_p", self.gem_p, lambda p: 0 < p < math.inf, "positive and finite", "3.0")
        _check_number("gem_eps", self.gem_eps, lambda eps: 0 < eps < 1, "in (0, 1)", "1e-6")

    def _check_switches(self) -> None:
        for name in ("use_serial_adapter", "use_parallel_adapter", "use_local_head"):
            _check_choice(name, getattr(self, name), (True, False))


def _check_number(name: str, value: Any, is_valid: Callable[[float], bool], expected: str, default: str) -> None:
    if not isinstance(value, int | float) or not is_valid(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}; the default is {default}.")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _pair_of_counts(name: str, value: Any, example: str) -> tuple[int, int]:
    """Turn a list read from JSON into a pair of positive whole numbers."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(_is_index(count) and count > 0 for count in pair):
        raise ValueError(f"{name} must be two positive whole numbers, {example}, got {value!r}.")
    return pair


def _layer_indices(value: Any) -> list[int] | None:
    """Turn one index, a list or a range into a sorted list without repetitions."""
    if value is None:
        return None
    indices = list(value) if isinstance(value, Iterable) else [value]
    if not indices or not all(_is_index(index) and index >= 0 for index in indices):
        raise ValueError(
            f"layers_to_transform must name at least one block, counted from 0, got {value!r}; None adapts all."
        )
    return sorted(set(indices))


def _adapted_modules(value: Any) -> list[str] | None:
    """Turn a name or a collection of names into a sorted list."""
    if value is None:
        return None
    names = set(value) if isinstance(value, Iterable) and not isinstance(value, str) else {value}
    if not names or not names <= set(ADAPTED_MODULES):
        raise ValueError(
            f"target_modules must be a subset of {list(ADAPTED_MODULES)}, got {value!r}; None takes both. To switch"
            " one kind of adapter off, use_serial_adapter and use_parallel_adapter are meant."
        )
    return sorted(names)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
