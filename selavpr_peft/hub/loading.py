"""Load a backbone, and an adapter onto it, by name or folder."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel

from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub.versions import dtype_argument
from selavpr_peft.tuner.backbones import backbone_shape
from selavpr_peft.tuner.config import SelaConfig


def load_backbone(name: str | Path, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a supported backbone in evaluation mode.

    Args:
        name: Hub id or folder.
        dtype: Type of the weights; always given, because transformers 5 would otherwise keep the file's.

    Raises:
        UnsupportedBackboneError: If it is a model that SelaVPR cannot adapt.
        CheckpointError: If its weights cannot be read or are not complete.
        OSError: If there is no such model (a ValueError of huggingface_hub where the name cannot be one).
    """
    try:
        config = AutoConfig.from_pretrained(str(name))
        backbone, report = AutoModel.from_pretrained(
            str(name), config=config, output_loading_info=True, **dtype_argument(dtype)
        )
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"The weights of the backbone {name} cannot be read ({error}); the file is damaged or incomplete: fetch"
            " or save it again."
        ) from error
    except OSError as error:
        raise OSError(f"The backbone {name} cannot be loaded: {error}") from error  # transformers may leave it unnamed
    backbone_shape(backbone)
    _check_complete(name, set(report["missing_keys"]))
    return backbone.eval()


def _check_complete(name: str | Path, missing: set[str]) -> None:
    """Raise if transformers had to make up weights; it only logs that. The mask token is never used."""
    missing = missing - {"embeddings.mask_token"}
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"The weights of the backbone {name} lack {len(missing)} tensors ({shown}), which would be random; fetch"
            " or save it again."
        )


def load_adapted_model(
    backbone: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    is_trainable: bool = False,
) -> PeftModel:
    """Load a backbone and an adapter in evaluation mode; without an adapter, give it a fresh one.

    Args:
        backbone: Hub id or folder.
        adapter: Hub id or folder of an adapter; None for a fresh one with the default `SelaConfig`, which leaves the
            global descriptors those of the frozen backbone and has a random local head.
        dtype: Type of the backbone's weights; adapters are float32.
        seed: Seed of the fresh adapter.
        is_trainable: Leave the parameters of a loaded adapter trainable.

    Raises:
        BackboneMismatchError: If the adapter was made for another backbone.
        CheckpointError: If the weights of backbone or adapter cannot be read.
        ValueError: If there is no adapter at that place (raised by peft).
    """
    base = load_backbone(backbone, dtype=dtype)
    if adapter is None:
        return adapt_freshly(base, SelaConfig(), seed=seed)
    try:
        return PeftModel.from_pretrained(base, str(adapter), is_trainable=is_trainable).eval()
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of the adapter {adapter} cannot be read ({error}); the file is damaged or incomplete: fetch"
            " or save it again."
        ) from error


def adapt_freshly(backbone: nn.Module, config: SelaConfig, *, seed: int) -> PeftModel:
    """Give a backbone a new adapter whose random part depends on the seed alone, in evaluation mode.

    Args:
        backbone: A supported backbone.
        config: Settings of the adapter.
        seed: Seed; the state of PyTorch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' too
        return get_peft_model(backbone, config).eval()
