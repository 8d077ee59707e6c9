"""The tuner: decides which module of a backbone gets what, and refuses what PEFT would ignore in silence.

PEFT drives it through the hooks of `BaseTuner`; adapters are in layer.py, the head in head.py, what surrounds the
backbone's forward in hooks.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from selavpr_peft.errors import BackboneMismatchError
from selavpr_peft.registration import PREFIX
from selavpr_peft.tuner.backbones import BackboneShape, adapted_module, backbone_shape
from selavpr_peft.tuner.config import ADAPTED_MODULES, SelaConfig
from selavpr_peft.tuner.head import VprHead
from selavpr_peft.tuner.hooks import HEAD_NAME, attach_head, detach_head
from selavpr_peft.tuner.layer import MERGE_REFUSAL, AdaptedModule, ParallelAdapter, SelaLayer, SerialAdapter
from selavpr_peft.tuner.state_names import canonical_name

_TAKEN_NAMES = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}


class SelaModel(BaseTuner):
    """Adapt a frozen backbone to place recognition; made by `peft.get_peft_model(backbone, SelaConfig())`.

    The backbone is a bare `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`. Its forward then returns a
    `SelaOutput`. Several adapters may share a backbone; one is active at a time.
    """

    prefix = PREFIX
    tuner_layer_cls = SelaLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # modules are matched by tuner/backbones.py instead

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adapt a backbone, unless it has an adapter of that name, whose settings BaseTuner would replace."""
        _check_can_be_names([adapter_name])
        _check_any_is_free(model, [adapter_name])
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)

    def _check_new_adapter_config(self, config: SelaConfig) -> None:
        """Check a new adapter against the backbone before anything is changed, and note the backbone's shape."""
        super()._check_new_adapter_config(config)
        names = [name for name, known in self.peft_config.items() if known is config]
        _check_can_be_names(names)
        _check_any_is_free(self.model, names)
        shape = backbone_shape(self.model)
        _check_recorded_shape(config, shape)
        _check_layer_indices(config, shape)
        config.adapter_width(shape.hidden_size)
        if config.position_interpolation == "official" and not shape.has_position_table:
            raise ValueError(
                f"position_interpolation='official' needs a table of position embeddings, which"
                f" {type(self.model).__name__} does not have; use 'backbone'."
            )
        config.backbone_num_layers = shape.num_layers
        config.backbone_hidden_size = shape.hidden_size
        config.backbone_patch_size = shape.patch_size

    def _prepare_adapter_config(self, peft_config: SelaConfig, model_config: dict[str, Any]) -> SelaConfig:
        return peft_config  # target_modules=None stays None: it means both kinds

    @staticmethod
    def _check_target_module_exists(peft_config: SelaConfig, key: str) -> bool:
        found = adapted_module(key)
        if found is None:
            return False
        index, kind = found
        return kind in (peft_config.target_modules or ADAPTED_MODULES) and peft_config.adapts_layer(index)

    def _create_and_replace(
        self,
        peft_config: SelaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        head = self._add_adapter_to_head(peft_config, adapter_name)
        is_serial = target_name == "attention"
        wrapper_class = SerialAdapter if is_serial else ParallelAdapter
        wrapper = target if isinstance(target, AdaptedModule) else wrapper_class(target, head.settings)
        setattr(parent, target_name, wrapper)
        if peft_config.use_serial_adapter if is_serial else peft_config.use_parallel_adapter:
            wrapper.add_adapter(adapter_name, peft_config)

    def _add_adapter_to_head(self, config: SelaConfig, adapter_name: str) -> VprHead:
        """Give the head this adapter's parameters, once.

        The head itself is made with the first module that is replaced: were it there before PEFT's injection starts,
        PEFT would take the backbone for one that already has an adapter and leave it trainable.
        """
        head = getattr(self.model, HEAD_NAME, None)
        if head is None:
            head = attach_head(self.model)
        if adapter_name not in head.settings:
            head.add_adapter(adapter_name, config)
        return head

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a module in the place of another; adapters already are where their base layer is."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSAL)

    def unload(self) -> nn.Module:
        """Remove all adapters, the head and the hooks, and give back the backbone exactly as it was."""
        backbone = super().unload()
        detach_head(backbone)
        vars(backbone).pop("peft_config", None)
        return backbone

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse arguments of other methods, which `PeftModel.forward` would drop without a word."""
        for name in ("adapter_names", "alora_offsets"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"SelaVPR does not support {name}: all images of a batch go through the active adapter. Group the"
                    " images by adapter and call set_adapter between the groups."
                )
        yield

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Map a parameter's name to its name in the file, the same in every version of transformers (peft >= 0.21)."""
        return canonical_name(super()._remove_adapter_name_from_key(key, adapter_name))

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: SelaConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Accept files with either spelling of DINOv3's blocks (peft >= 0.21; older ones pass through the hook)."""
        state_dict = {canonical_name(name): tensor for name, tensor in state_dict.items()}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def release(backbone: nn.Module) -> None:
    """Take all adapters off a backbone for which there is no model that could unload them: loading one failed.

    Args:
        backbone: The backbone.
    """
    for name, module in list(backbone.named_modules()):
        if isinstance(module, AdaptedModule):
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, module.base_layer)
    detach_head(backbone)
    vars(backbone).pop("peft_config", None)


def check_adapted(model: Any) -> None:
    """Raise unless a SelaVPR adapter of a model is active.

    Args:
        model: What was passed as a model.

    Raises:
        TypeError: If it has none; the message says how to make one.
    """
    found = model.active_peft_config if isinstance(model, PeftModel) else model
    if not isinstance(found, SelaConfig):
        raise TypeError(
            f"model must be a PEFT model with a SelaVPR adapter, got {type(model).__name__}"
            + (f" with {type(found).__name__}" if isinstance(model, PeftModel) else "")
            + "; load one by selavpr_peft.load(adapter), or make one by get_peft_model(backbone, SelaConfig())."
        )


def _check_can_be_names(names: list[str]) -> None:
    """Raise if PyTorch cannot call an adapter's modules so; it would notice when the backbone is half changed."""
    for name in names:
        if not name or "." in name or name in _TAKEN_NAMES:
            raise ValueError(
                "adapter_name must be a text without dots and no attribute of PyTorch's ModuleDict or ParameterDict,"
                f" got {name!r}; choose another, for example 'city'."
            )


def _check_any_is_free(model: nn.Module, names: list[str]) -> None:
    """Raise if there are adapters of all names: PEFT would create anew what the new one has and keep the rest."""
    head = getattr(model, HEAD_NAME, None)
    if head is not None and all(name in head.settings for name in names):
        raise ValueError(
            f"The backbone already has an adapter named {names[-1]!r}; choose another adapter_name, or call"
            " delete_adapter or unload first."
        )


def _check_recorded_shape(config: SelaConfig, shape: BackboneShape) -> None:
    """Raise if the adapter was made for a backbone of another depth, width or patch size."""
    found = {
        "backbone_num_layers": shape.num_layers,
        "backbone_hidden_size": shape.hidden_size,
        "backbone_patch_size": shape.patch_size,
    }
    recorded = {name: getattr(config, name) for name in found}
    differing = [name for name, value in recorded.items() if value is not None and value != found[name]]
    if differing:
        made_for = ", ".join(f"{name.removeprefix('backbone_')} {recorded[name]}" for name in differing)
        given = ", ".join(f"{name.removeprefix('backbone_')} {found[name]}" for name in differing)
        base = f" ({config.base_model_name_or_path})" if config.base_model_name_or_path else ""
        raise BackboneMismatchError(
            f"The adapter was made for a backbone{base} with {made_for}, but this one has {given}; load the backbone"
            " it was made for, or make a new SelaConfig for a new adapter."
        )


def _check_layer_indices(config: SelaConfig, shape: BackboneShape) -> None:
    """Raise if a block is named that the backbone lacks; PEFT would adapt the others and say nothing."""
    missing = [index for index in config.layers_to_transform or [] if index >= shape.num_layers]  # type: ignore[union-attr]
    if missing:
        raise ValueError(
            f"layers_to_transform names blocks {missing}, but the backbone has {shape.num_layers}, counted from 0."
        )
