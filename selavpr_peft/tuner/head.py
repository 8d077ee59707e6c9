"""The head of an adapted backbone: it describes the place, with the active adapter's parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from selavpr_peft.modeling.local_head import local_features, up_convolution
from selavpr_peft.modeling.pooling import global_descriptors
from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.layer import AdapterSettings, SelaLayer


class VprHead(SelaLayer):
    """GeM exponents and up-convolutions of all adapters, kept as a child of the backbone.

    It wraps nothing and has no forward of its own: a hook on the backbone calls `describe` (see tuner/hooks.py).
    What PEFT calls the base layer is the whole backbone here.
    """

    adapter_layer_names = ("sela_gem_p", "sela_upconv1", "sela_upconv2")

    def __init__(self, backbone: PreTrainedModel, patch_size: int) -> None:
        """Make a head without adapters.

        Args:
            backbone: The model this head is going to be a child of.
            patch_size: Its patch size in pixels.
        """
        super().__init__({})
        self.patch_size = patch_size
        self.makes_local_features = True
        self.hook_handles: list[RemovableHandle] = []
        self._backbone: PreTrainedModel
        object.__setattr__(self, "_backbone", backbone)  # a plain reference: as a submodule it would be a cycle
        self.sela_gem_p = nn.ParameterDict()
        self.sela_upconv1 = nn.ModuleDict()
        self.sela_upconv2 = nn.ModuleDict()

    def add_adapter(self, adapter_name: str, config: SelaConfig) -> None:
        """Create the GeM exponent and, if asked for, the local head of a new adapter.

        Args:
            adapter_name: Name of the adapter.
            config: Its settings; `backbone_hidden_size` must be filled in.
        """
        assert config.backbone_hidden_size is not None
        self.settings[adapter_name] = AdapterSettings(
            parallel_scale=config.parallel_scale,
            gem_eps=config.gem_eps,
            uses_official_positions=config.position_interpolation == "official",
        )
        self.sela_gem_p[adapter_name] = nn.Parameter(torch.full((1,), float(config.gem_p), dtype=torch.float32))
        if config.use_local_head:
            first, second = config.local_channels
            self.sela_upconv1[adapter_name] = up_convolution(config.backbone_hidden_size, first)
            self.sela_upconv2[adapter_name] = up_convolution(first, second)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @property
    def active_settings(self) -> AdapterSettings | None:
        """Settings of the active adapter; None while there is none."""
        return self.settings.get(self.active_name) if self.active_name is not None else None

    def describe(self, patch_tokens: Tensor, height: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Compute both descriptions of a batch of images with the active adapter.

        Args:
            patch_tokens: (B, height * width, D) patch tokens after the final norm.
            height: Rows of the patch grid.
            width: Columns of the patch grid.

        Returns:
            Global descriptors (B, D) and local features (B, 4h-3, 4w-3, C) or None.
        """
        name = self.active_name
        assert name is not None
        descriptors = global_descriptors(patch_tokens, self.sela_gem_p[name], self.settings[name].gem_eps)
        if name not in self.sela_upconv1 or not self.makes_local_features:
            return descriptors, None
        patch_map = patch_tokens.transpose(1, 2).unflatten(2, (height, width))
        upconv1 = cast("nn.ConvTranspose2d", self.sela_upconv1[name])
        upconv2 = cast("nn.ConvTranspose2d", self.sela_upconv2[name])
        return descriptors, local_features(patch_map, upconv1, upconv2)

    def get_base_layer(self) -> PreTrainedModel:
        """Give the backbone."""
        return self._backbone

    @property
    def weight(self) -> None:
        """None: the head wraps no weight."""
        return None

    @property
    def bias(self) -> None:
        """None: the head wraps no bias."""
        return None

    def _device_of_base_layer(self) -> torch.device:
        return next(self._backbone.embeddings.parameters()).device  # the backbone's own, not this head's


@contextmanager
def global_descriptors_only(model: nn.Module) -> Iterator[None]:
    """Leave the local features of a model out for a while, where only descriptors are wanted.

    Args:
        model: An adapted backbone, or a model around it.

    Yields:
        Nothing; inside, `local_features` of the output are None.
    """
    heads = [module for module in model.modules() if isinstance(module, VprHead)]
    before = [head.makes_local_features for head in heads]
    for head in heads:
        head.makes_local_features = False
    try:
        yield
    finally:
        for head, made_them in zip(heads, before, strict=True):
            head.makes_local_features = made_them
