"""The layers of an adapter: what all have in common, and the wrappers of attention and MLP. The head is in head.py.

All keep their parameters in dictionaries keyed by adapter name, at leaf level (`sela_down.<adapter>.weight`), as
PEFT's saving, loading and deleting expect. Adapters are created in float32 and stay so over a bfloat16 or float16
backbone: their small updates would drown in its rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from selavpr_peft.tuner.config import SelaConfig


class SelaLayer(nn.Module, BaseTunerLayer):
    """What every module of this method has in common: one active adapter at a time, and no merging."""

    if TYPE_CHECKING:  # of BaseTunerLayer, which comes without types
        active_adapters: list[str]
        adapter_layer_names: tuple[str, ...]
        get_base_layer: Callable[[], nn.Module]

    other_param_names = ("settings",)

    def __init__(self, settings: dict[str, "AdapterSettings"]) -> None:
        """Start without adapters.

        Args:
            settings: Those of every adapter on the backbone: one dictionary that all its layers share. A layer that
                an adapter skips thus knows of it, and when the active one is deleted all fall back on the same.
        """
        super().__init__()
        self.settings = settings
        self.merged_adapters: list[str] = []
        self._frozen_while_active: list[nn.Parameter] = []

    @property
    def active_name(self) -> str | None:
        """Name of the adapter to apply; None while adapters are disabled or when all have been deleted."""
        if self._disable_adapters or not self.active_adapters:
            return None
        return self.active_adapters[0]

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter active and, unless in inference mode, trainable.

        Args:
            adapter_names: Name of the adapter, or a list with at most one name.
            inference_mode: Leave the adapter frozen.

        Raises:
            ValueError: If several names are given: outputs of SelaVPR adapters cannot be combined.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise ValueError(
                f"Only one SelaVPR adapter can be active at a time, got {names}; call set_adapter with one name."
            )
        super().set_adapter(names, inference_mode=inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the adapters on or off; an adapter that was frozen before stays frozen afterwards.

        Args:
            enabled: True applies the active adapter again, False leaves the bare backbone.
        """
        if not enabled and not self._disable_adapters:
            self._frozen_while_active = [p for p in self._active_parameters() if not p.requires_grad]
        super().enable_adapters(enabled)  # when enabling, this makes the active adapter trainable
        if enabled:
            for parameter in self._frozen_while_active:
                parameter.requires_grad_(False)
            self._frozen_while_active = []

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a bottleneck with a ReLU has no equivalent in the weights around it.

        Args:
            safe_merge: Ignored.
            adapter_names: Ignored.

        Raises:
            ValueError: Always.
        """
        raise ValueError(MERGE_REFUSAL)

    def unmerge(self) -> None:
        """Do nothing: a SelaVPR adapter is never merged."""

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Follow the base layer's device but not its type; PEFT's own method looks for a `weight` it does not have."""
        for layer_name in self.adapter_layer_names:
            adapters = getattr(self, layer_name)
            if adapter_name not in adapters:
                continue
            adapter = adapters[adapter_name]
            parameters = [adapter] if isinstance(adapter, nn.Parameter) else adapter.parameters()
            if not any(parameter.is_meta for parameter in parameters):  # those are filled when the file is loaded
                adapters[adapter_name] = adapter.to(device or self._device_of_base_layer())

    def _device_of_base_layer(self) -> torch.device:
        return next(self.get_base_layer().parameters()).device

    def _active_parameters(self) -> Iterator[nn.Parameter]:
        for layer_name in self.adapter_layer_names:
            for name, parameter in self.get_submodule(layer_name).named_parameters():
                if name.split(".")[0] in self.active_adapters:
                    yield parameter


MERGE_REFUSAL = (
    "A SelaVPR adapter cannot be merged into the backbone: between its two projections is a ReLU. Keep the adapter,"
    " or call unload() to get the plain backbone back."
)


class AdaptedModule(SelaLayer):
    """A module of a block together with the bottleneck adapters that belong to it."""

    adapter_layer_names = ("sela_down", "sela_up")

    def __init__(self, base_layer: nn.Module, settings: dict[str, "AdapterSettings"]) -> None:
        """Wrap a module, as yet without adapters.

        Args:
            base_layer: The attention or the MLP of a block.
            settings: Those of every adapter on the backbone, shared by its layers.
        """
        super().__init__(settings)
        self.base_layer = base_layer
        self.sela_down = nn.ModuleDict()
        self.sela_up = nn.ModuleDict()

    def __getattr__(self, name: str) -> Any:
        """Look up what this wrapper lacks in the wrapped module, for code that reads its attributes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def add_adapter(self, adapter_name: str, config: SelaConfig) -> None:
        """Create the bottleneck of a new adapter: W1 truncated normal (std 0.02), W2 and both biases zero.

        Args:
            adapter_name: Name of the adapter.
            config: Its settings; `backbone_hidden_size` must be filled in.
        """
        assert config.backbone_hidden_size is not None
        hidden_size = config.backbone_hidden_size
        width = config.adapter_width(hidden_size)
        down = nn.Linear(hidden_size, width, dtype=torch.float32)
        up = nn.Linear(width, hidden_size, dtype=torch.float32)
        nn.init.trunc_normal_(down.weight, std=0.02)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.sela_down[adapter_name] = down
        self.sela_up[adapter_name] = up
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _bottleneck(self, x: Tensor, name: str) -> Tensor:
        """Compute W2 relu(W1 x) in the adapter's own type."""
        down, up = cast("nn.Linear", self.sela_down[name]), self.sela_up[name]
        return up(F.relu(down(x.to(down.weight.dtype))))


class SerialAdapter(AdaptedModule):
    """An attention followed by an adapter with its own skip: x + W2 relu(W1 x) (official adapter1)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the attention and adapt its output, which is a tensor or comes first in a tuple."""
        output = self.base_layer(*args, **kwargs)
        name = self.active_name
        if name is None or name not in self.sela_down:
            return output
        if isinstance(output, tuple):
            return (self._adapt(output[0], name), *output[1:])
        return self._adapt(output, name)

    def _adapt(self, x: Tensor, name: str) -> Tensor:
        return (x + self._bottleneck(x, name)).to(x.dtype)


class ParallelAdapter(AdaptedModule):
    """An MLP with an adapter beside it, on the same input: mlp(x) + scale * W2 relu(W1 x) (official adapter2)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the MLP and add the adapter's output."""
        output = self.base_layer(x, *args, **kwargs)
        name = self.active_name
        if name is None or name not in self.sela_down:
            return output
        return (output + self.settings[name].parallel_scale * self._bottleneck(x, name)).to(output.dtype)


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """The settings of one adapter that are needed while the model runs."""

    parallel_scale: float
    gem_eps: float
    uses_official_positions: bool
