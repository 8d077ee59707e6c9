"""Official SelaVPR checkpoints both ways: read one as a PEFT model, write a PEFT model as one.

An official checkpoint holds the whole network, 1.4 GB for ViT-L, of which the adapter is 212 MB.
"""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
)

from selavpr_peft.errors import BackboneMismatchError, CheckpointError
from selavpr_peft.files import write_atomically
from selavpr_peft.hub.loading import load_backbone
from selavpr_peft.hub.official_names import OfficialArchitecture, adapter_names, backbone_names
from selavpr_peft.hub.safe_checkpoint import read_network_state
from selavpr_peft.tuner.backbones import backbone_shape
from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.model import check_adapted

OFFICIAL_SCALE = 0.2
OFFICIAL_GEM_EPS = 1e-6
OFFICIAL_NORM_EPS = 1e-6
MASK_TOKEN = "backbone.mask_token"
"""It plays no part outside pre-training: it need not be in a file nor equal a backbone's."""

RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-6


def convert_official_checkpoint(
    path: str | Path,
    *,
    backbone: str | Path | nn.Module | None = None,
    num_attention_heads: int | None = None,
    adapter_name: str = "default",
) -> PeftModel:
    """Turn an official SelaVPR checkpoint into a PEFT model with the same numbers.

    Width, depth, registers, SwiGLU, position grid and head sizes are read from the file.

    Args:
        path: A file written by the official train.py (or its network's tensors as safetensors).
        backbone: None rebuilds the frozen backbone from the file. A Hub id, a folder or a model is used instead if
            its weights equal the file's frozen part; then only the adapter is new.
        num_attention_heads: Heads of the attention, which no shape tells; by default width / 64 as in every DINOv2,
            or those of the given backbone.
        adapter_name: Name of the adapter.

    Returns:
        The model in evaluation mode, float32, with `position_interpolation="official"`.

    Raises:
        CheckpointError: If the file is damaged, needs more than tensors, plain containers and numpy numbers, or is no
            SelaVPR network.
        UnsupportedBackboneError: If the given backbone is not one that SelaVPR knows.
        BackboneMismatchError: If the given backbone differs from the file; the message names the tensors.
        ValueError: If the number of heads cannot be derived or contradicts the given backbone.
    """
    state = read_network_state(Path(path))
    architecture = OfficialArchitecture.of(state)
    if backbone is None:
        base = _rebuild_backbone(state, architecture, num_attention_heads)
    else:
        base = backbone if isinstance(backbone, nn.Module) else load_backbone(backbone)
        backbone_shape(base)
        _check_heads(base, num_attention_heads)
        check_frozen_part(base, state, architecture)
    model = get_peft_model(base, _adapter_config(architecture), adapter_name=adapter_name)
    try:
        _load_adapter(model, state, architecture, adapter_name)
    except CheckpointError:
        model.unload()  # a backbone that was given goes back as it came
        raise
    return model.eval()


def export_official_checkpoint(model: PeftModel, path: str | Path) -> None:
    """Write the active adapter together with its backbone as a checkpoint that the official code loads.

    What the official training script would resume from is written as plain Python numbers: epoch 0, no recalls, an
    empty optimiser state. An adapter that is switched off, for all blocks or some, is written with a zero W2.

    Args:
        model: A PEFT model over a `Dinov2Model` or `Dinov2WithRegistersModel` with float weights.
        path: File to write; it appears only when complete.

    Raises:
        TypeError: If the model has no SelaVPR adapter.
        ValueError: If the official network cannot say what the model computes; the message tells which setting.
    """
    check_adapted(model)
    config = model.active_peft_config
    backbone = model.get_base_model()
    _check_exportable(backbone, config)
    tensors = {name.replace(".base_layer", ""): tensor for name, tensor in backbone.state_dict().items()}
    state = _official_backbone(tensors, config) | _official_adapter(tensors, config, model.active_adapter)
    checkpoint = {
        "epoch_num": 0,
        "model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer_state_dict": {},
        "recalls": [],
        "best_r5": 0.0,
        "not_improved_num": 0,
    }
    write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def check_frozen_part(backbone: nn.Module, state: dict[str, Tensor], architecture: OfficialArchitecture) -> None:
    """Raise unless a backbone's weights equal the frozen part of an official checkpoint within rounding.

    Args:
        backbone: A Hugging Face backbone.
        state: Tensors of the checkpoint by official name.
        architecture: What was read off them.

    Raises:
        BackboneMismatchError: If tensors differ or are only on one side; the message names them.
    """
    tensors = backbone.state_dict()
    names = backbone_names(tensors, architecture.num_layers)
    covered = {part for parts in names.values() for part in parts}
    extra = {name for name in tensors if name not in covered}
    official = _frozen_names(state) - {MASK_TOKEN}
    unpaired = official ^ (set(names) - {MASK_TOKEN})
    differing = [name for name in sorted(official & set(names)) if not _equals(state[name], names[name], tensors)]
    if unpaired or extra or differing:
        listed = [*differing, *sorted(unpaired | extra)]
        shown = ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
        raise BackboneMismatchError(
            f"The backbone differs from the checkpoint's frozen part in {len(listed)} tensors: {shown}. Name the"
            " backbone the checkpoint was trained on, or none to take it from the file."
        )


def _equals(official: Tensor, parts: tuple[str, ...], tensors: dict[str, Tensor]) -> bool:
    """Compare an official tensor with its stacked counterparts, within the rounding of their type."""
    ours = torch.cat([tensors[part] for part in parts])
    if ours.shape != official.shape or not ours.is_floating_point():
        return False
    relative = max(RELATIVE_TOLERANCE, 2 * torch.finfo(ours.dtype).eps)
    return torch.allclose(ours.float().cpu(), official.float(), rtol=relative, atol=ABSOLUTE_TOLERANCE)


def _rebuild_backbone(
    state: dict[str, Tensor], architecture: OfficialArchitecture, num_attention_heads: int | None
) -> nn.Module:
    """Make the Hugging Face backbone that a checkpoint's frozen part describes."""
    width = architecture.hidden_size
    if num_attention_heads is None and width % 64:
        raise ValueError(
            f"num_attention_heads cannot be derived for width {width}: DINOv2 has 64 channels per head, and {width} is"
            " no multiple of 64. Pass num_attention_heads."
        )
    heads = width // 64 if num_attention_heads is None else num_attention_heads
    if heads < 1 or width % heads:
        raise ValueError(f"num_attention_heads must divide the width {width}, got {heads}.")
    settings = architecture.backbone_settings(heads)
    if architecture.num_register_tokens:
        backbone: nn.Module = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings))
    else:
        backbone = Dinov2Model(Dinov2Config(**settings))
    names = backbone_names(backbone.state_dict(), architecture.num_layers)
    state = {MASK_TOKEN: torch.zeros(1, width)} | state
    backbone.load_state_dict(_split_official(state, names, backbone.state_dict()))
    return backbone


def _split_official(
    state: dict[str, Tensor], names: dict[str, tuple[str, ...]], present: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Cut official backbone tensors into Hugging Face's; every one must be used and fit."""
    odd = ", ".join(sorted(_frozen_names(state) ^ set(names))[:8])
    if odd:
        raise CheckpointError(f"The backbone in the file is not a DINOv2 as expected; missing or unknown: {odd}.")
    result: dict[str, Tensor] = {}
    for name, parts in names.items():
        sizes = [present[part].shape[0] for part in parts]
        _check_shape(name, state[name], (sum(sizes), *present[parts[0]].shape[1:]))
        result.update(zip(parts, state[name].split(sizes), strict=True))
    return result


def _adapter_config(architecture: OfficialArchitecture) -> SelaConfig:
    return SelaConfig(
        bottleneck_ratio=_ratio(architecture.adapter_width, architecture.hidden_size),
        parallel_scale=OFFICIAL_SCALE,
        local_channels=architecture.local_channels,
        gem_p=architecture.gem_p,
        gem_eps=OFFICIAL_GEM_EPS,
        position_interpolation="official",
        resize="official",
    )


def _ratio(part: int, whole: int) -> float:
    """Give part / whole so that int(whole * ratio) is `part` again, whatever the rounding."""
    ratio = part / whole
    return ratio if int(whole * ratio) == part else math.nextafter(ratio, 1.0)


def _load_adapter(
    model: PeftModel, state: dict[str, Tensor], architecture: OfficialArchitecture, adapter_name: str
) -> None:
    """Fill adapters and head from official tensors; every one must be used and every parameter filled."""
    names = adapter_names(architecture.num_layers)
    odd = ", ".join(sorted((set(state) - _frozen_names(state)) ^ set(names))[:8])
    if odd:
        raise CheckpointError(f"Adapters and heads in the file are not as expected; missing or unknown: {odd}.")
    backbone = model.get_base_model()
    present = backbone.state_dict()
    ours = {official: _with_adapter(name, adapter_name) for official, name in names.items()}
    for official, name in ours.items():
        _check_shape(official, state[official], tuple(present[name].shape))
    backbone.load_state_dict({name: state[official] for official, name in ours.items()}, strict=False)


def _frozen_names(state: dict[str, Tensor]) -> set[str]:
    """Give the official names of the backbone's own tensors, adapters left out."""
    return {name for name in state if name.startswith("backbone.") and ".adapter" not in name}


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise CheckpointError(
            f"{name} must have shape {expected} to fit the other tensors of the file, got {tuple(tensor.shape)}."
        )


def _with_adapter(name: str, adapter_name: str) -> str:
    """Put the adapter's name into a tensor's name, before `weight` or `bias` or at the end."""
    stem, _, kind = name.rpartition(".")
    return f"{stem}.{adapter_name}.{kind}" if kind in ("weight", "bias") else f"{name}.{adapter_name}"


def _check_heads(backbone: PreTrainedModel, num_attention_heads: int | None) -> None:
    found = backbone.config.num_attention_heads
    if num_attention_heads is not None and num_attention_heads != found:
        raise ValueError(
            f"num_attention_heads is {num_attention_heads}, but the backbone has {found}; leave it out to take the"
            " backbone's."
        )


def _check_exportable(backbone: nn.Module, config: Any) -> None:
    """Raise if some setting of the model has no place in the official network."""
    if not isinstance(backbone, Dinov2Model | Dinov2WithRegistersModel):
        raise ValueError(f"The official code knows DINOv2 backbones, got {type(backbone).__name__}.")
    scale = config.parallel_scale if config.use_parallel_adapter else OFFICIAL_SCALE  # of nothing it does not matter
    fixed = {
        "parallel_scale": (scale, OFFICIAL_SCALE),
        "gem_eps": (config.gem_eps, OFFICIAL_GEM_EPS),
        "use_local_head": (config.use_local_head, True),
        "layer_norm_eps": (backbone.config.layer_norm_eps, OFFICIAL_NORM_EPS),
        "hidden_act": (backbone.config.hidden_act, "gelu"),
    }
    for name, (value, expected) in fixed.items():
        if value != expected:
            raise ValueError(f"The official network has {name} {expected} built in, got {value}; it cannot say that.")
    if config.position_interpolation != "official" and not _needs_no_interpolation(backbone, config):
        raise ValueError(
            "The official network interpolates positions by its own rule, but the adapter was made with"
            f" position_interpolation={config.position_interpolation!r}: its features would silently change. Train"
            " with 'official' to export."
        )


def _needs_no_interpolation(backbone: PreTrainedModel, config: Any) -> bool:
    """Tell whether the adapter's own image size meets the position table as it is, where both rules agree."""
    height, width = config.image_size
    table = backbone.embeddings.position_embeddings
    return height == width and (height // config.backbone_patch_size) ** 2 == table.shape[1] - 1


def _official_backbone(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    names = backbone_names(tensors, config.backbone_num_layers)
    state = {official: torch.cat([_plain(part, tensors[part]) for part in parts]) for official, parts in names.items()}
    state.setdefault(MASK_TOKEN, torch.zeros(1, config.backbone_hidden_size))
    return state


def _official_adapter(tensors: dict[str, Tensor], config: Any, adapter_name: str) -> dict[str, Tensor]:
    """Collect adapters and head under official names; where there is no adapter, one that does nothing."""
    hidden, width = config.backbone_hidden_size, config.adapter_width(config.backbone_hidden_size)
    absent = {
        "sela_down.weight": (width, hidden),
        "sela_down.bias": (width,),
        "sela_up.weight": (hidden, width),
        "sela_up.bias": (hidden,),
    }
    state = {}
    for official, ours in adapter_names(config.backbone_num_layers).items():
        tensor = tensors.get(_with_adapter(ours, adapter_name))
        if tensor is None:
            tensor = torch.zeros(absent[".".join(ours.split(".")[-2:])])
        state[official] = _plain(ours, tensor)
    return state


def _plain(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor as the official code keeps it: float32, on the CPU."""
    if not tensor.is_floating_point() or type(tensor) not in (Tensor, nn.Parameter):
        raise ValueError(f"{name} is quantised ({tensor.dtype}); load the backbone in a float type to export it.")
    return tensor.detach().to("cpu", torch.float32)
