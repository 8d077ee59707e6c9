"""Load a backbone, and an adapter onto it, by name or folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel

from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub.adapter_folder import (
    CALIBRATION_NAME,
    CONFIG_NAME,
    PREPROCESSOR_NAME,
    check_weights,
    fetch_adapter,
    read_adapter_config,
)
from selavpr_peft.hub.backbone_identity import check_backbone
from selavpr_peft.hub.calibration_file import read_calibration
from selavpr_peft.hub.preprocessor_file import read_preprocessor
from selavpr_peft.hub.versions import dtype_argument
from selavpr_peft.hub_access import quiet_hub
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.redaction import without_secrets
from selavpr_peft.retrieval.calibration import carry_calibration
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from selavpr_peft.tuner.backbones import backbone_shape
from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.model import release


def load(
    adapter: str | Path,
    *,
    backbone: str | Path | nn.Module | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    is_trainable: bool = False,
) -> PeftModel:
    """Load an adapter with its backbone, from the Hub or from folders, and check that they belong together.

    The model carries its preprocessing, `Preprocessing.of(model.active_peft_config)`, and the calibration of an
    adapter that has one, which `PlaceRecognizer` uses. Two loaded adapters are switched by `set_adapter`
    (`add_adapter` loads a second one). After an error a given backbone is the plain one that it was.

    Args:
        adapter: Hub id or folder.
        backbone: Hub id or folder of the backbone, or a loaded one; None for the one that the adapter names.
        revision: Branch, tag or commit of the adapter.
        token: Access token; None for the one that is logged in.
        dtype: Type of the backbone's weights, unless it is loaded already; adapters are float32.
        device: Where to; None leaves the model on the CPU, or where the given backbone is.
        is_trainable: Leave the adapter's parameters trainable.

    Raises:
        HubError: If the Hub does not give the adapter; the message says why and what to do.
        BackboneMismatchError: If the backbone is not the one that the adapter was trained on.
        CheckpointError: If a file is damaged, or this is no SelaVPR adapter.
        ValueError: If the adapter names no backbone and none is given, or is of another release's layout.
        OSError: If there is no such backbone.
    """
    folder = fetch_adapter(adapter, revision=revision, token=token)
    config = read_adapter_config(folder)
    _check_preprocessing(folder, config)
    base = _named_backbone(adapter, config, dtype) if backbone is None else _checked_backbone(backbone, config, dtype)
    with _damage_named(adapter), _released_after_error(base):
        check_weights(folder)
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=is_trainable).eval()
        _take_calibration(model, folder, model.active_adapter)
    return model if device is None else model.to(device)


def add_adapter(
    model: PeftModel,
    adapter: str | Path,
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> None:
    """Load a further adapter over the backbone of a model; `model.set_adapter(name)` makes it the active one.

    After an error the model has the adapters that it had before.

    Args:
        model: A loaded model.
        adapter: Hub id or folder.
        name: What it is called in this model.
        revision: Branch, tag or commit of the adapter.
        token: Access token; None for the one that is logged in.

    Raises:
        HubError: If the Hub does not give the adapter; the message says why and what to do.
        BackboneMismatchError: If it was trained on another backbone.
        CheckpointError: If a file is damaged, or this is no SelaVPR adapter.
        ValueError: If there is an adapter of this name.
    """
    if name in model.peft_config:
        raise ValueError(
            f"The model already has an adapter named {name!r}; choose another name, or call delete_adapter first."
        )
    folder = fetch_adapter(adapter, revision=revision, token=token)
    config = read_adapter_config(folder)
    _check_preprocessing(folder, config)
    known = {settings.backbone_fingerprint for settings in model.peft_config.values()}
    if known != {config.backbone_fingerprint}:  # adapters of one backbone need no second look at its weights
        check_backbone(model, config, "of the model")
    try:
        with _damage_named(adapter):
            check_weights(folder)
            model.load_adapter(str(folder), adapter_name=name)
        _take_calibration(model, folder, name)
    except Exception:
        if name in model.peft_config:  # PEFT makes an adapter with random weights before it reads the file
            model.delete_adapter(name)
        raise
    model.eval()


@contextmanager
def _damage_named(adapter: str | Path) -> Iterator[None]:
    """Say of which adapter the weights cannot be read."""
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of the adapter {adapter} cannot be read ({error}); the file is damaged or incomplete: fetch"
            " or save it again."
        ) from error


@contextmanager
def _released_after_error(backbone: nn.Module) -> Iterator[None]:
    """Leave nothing on a plain backbone: PEFT wraps its blocks before it reads the file."""
    was_plain = not hasattr(backbone, "peft_config")
    try:
        yield
    except Exception:
        if was_plain:
            release(backbone)
        raise


def _named_backbone(adapter: str | Path, config: SelaConfig, dtype: torch.dtype) -> nn.Module:
    """Load the backbone that an adapter names."""
    name = config.base_model_name_or_path
    if not name:
        raise ValueError(
            f"The adapter {adapter} does not name the backbone it was trained on; say which by backbone=, for"
            ' example load(..., backbone="facebook/dinov2-large").'
        )
    try:
        return _checked_backbone(name, config, dtype)
    except OSError as error:
        raise OSError(
            f"{error} The adapter {adapter} names this backbone; if it is elsewhere now, say where by backbone=."
        ) from None


def _checked_backbone(backbone: str | Path | nn.Module, config: SelaConfig, dtype: torch.dtype) -> nn.Module:
    """Load the backbone in the type that is wanted, after its weights were compared with those recorded."""
    if isinstance(backbone, nn.Module):
        check_backbone(backbone, config, f"given ({type(backbone).__name__})")
        return backbone.eval()
    recorded = (config.backbone_fingerprint or "").partition(":")[0]
    if recorded and str(dtype) not in {f"torch.{recorded}", "torch.float32"}:
        check_backbone(load_backbone(backbone), config, str(backbone))  # rounded weights would not tell
        return load_backbone(backbone, dtype=dtype)
    loaded = load_backbone(backbone, dtype=dtype)
    check_backbone(loaded, config, str(backbone))
    return loaded


def _take_calibration(model: PeftModel, folder: Path, name: str) -> None:
    """Let the model carry the calibration of an adapter just loaded, if there is one."""
    calibration = read_calibration(folder)
    if calibration is None:
        return
    try:
        calibration.check_adapter(adapter_fingerprint(model, name))
    except ValueError as error:
        raise CheckpointError(f"{folder / CALIBRATION_NAME} is of other weights: {error}") from error
    carry_calibration(model, calibration)


def _check_preprocessing(folder: Path, config: SelaConfig) -> None:
    """Raise if the two files of an adapter disagree on how pictures are prepared."""
    found, expected = read_preprocessor(folder), Preprocessing.of(config)
    if found is not None and found != expected:
        raise CheckpointError(
            f"{folder / PREPROCESSOR_NAME} says {found}, but {CONFIG_NAME} beside it {expected}; take both files from"
            " the same save."
        )


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
        with quiet_hub():
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
        # transformers may leave it unnamed, and its message may repeat what a server answered
        raise OSError(without_secrets(f"The backbone {name} cannot be loaded: {error}")) from None
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
        HubError: If there is no adapter at that place.
    """
    if adapter is None:
        return adapt_freshly(load_backbone(backbone, dtype=dtype), SelaConfig(), seed=seed)
    return load(adapter, backbone=backbone, dtype=dtype, is_trainable=is_trainable)


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
