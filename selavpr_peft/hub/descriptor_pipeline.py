"""Images in, global descriptors out: an adapter used as transformers' pipelines are."""

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor

from selavpr_peft.hub.loading import load
from selavpr_peft.modeling.preprocessing import Picture, Preprocessing, as_picture
from selavpr_peft.retrieval.encoding import describe, in_batches
from selavpr_peft.tuner.head import global_descriptors_only
from selavpr_peft.tuner.model import check_adapted


def pipeline(
    adapter: str | Path | PeftModel,
    *,
    backbone: str | Path | torch.nn.Module | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: str | torch.dtype = torch.float32,
    device: int | str | torch.device | None = None,
    batch_size: int = 16,
) -> "DescriptorPipeline":
    """Load an adapter, or take a loaded one, and give what turns images into global descriptors.

    Args:
        adapter: Hub id, folder or loaded model.
        backbone: As in `load`; only for an adapter that is to be loaded, as are `revision`, `token` and `dtype`.
        revision: Branch, tag or commit of the adapter.
        token: Access token; None for the one that is logged in.
        dtype: Type of the backbone's weights, by name or as PyTorch's.
        device: Where to compute; a number is that of a GPU, -1 the CPU, None where the model is.
        batch_size: Images per forward pass.

    Raises:
        HubError: If the Hub does not give the adapter; the message says why and what to do.
        ValueError: If adapter and backbone do not belong together, or there is no type of that name.
    """
    if not isinstance(adapter, PeftModel):
        adapter = load(adapter, backbone=backbone, revision=revision, token=token, dtype=_as_dtype(dtype))
    if device is not None:
        adapter = adapter.to(_as_device(device))
    return DescriptorPipeline(adapter, batch_size=batch_size)


class DescriptorPipeline:
    """Describes images by the active adapter of a model.

    Args:
        model: A model with a SelaVPR adapter; it is put into evaluation mode.
        batch_size: Images per forward pass.

    Raises:
        TypeError: If the model has no SelaVPR adapter.
        ValueError: If the batch size is below 1.
    """

    def __init__(self, model: PeftModel, *, batch_size: int = 16) -> None:
        """Keep the model."""
        check_adapted(model)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.model = model.eval()
        self.batch_size = batch_size

    def __repr__(self) -> str:
        """Tell how pictures are prepared and what comes out."""
        config = self.model.active_peft_config
        return (
            f"DescriptorPipeline(adapter {self.model.active_adapter!r}, {config.backbone_hidden_size} channels,"
            f" {Preprocessing.of(config)}, batch_size={self.batch_size})"
        )

    def __call__(
        self, images: Picture | Iterable[Picture], *, batch_size: int | None = None
    ) -> Float[Tensor, " D"] | Float[Tensor, "B D"]:
        """Describe one image or several.

        Args:
            images: Path, Pillow image or 8-bit array (H, W) or (H, W, 3); or any iterable of such, which is read batch
                by batch. Not downloaded: a path is that of a file.
            batch_size: Images per forward pass; None for that of the pipeline.

        Returns:
            Descriptors of unit norm on the CPU, in the order of the images: (D,) for one image, (B, D) for several,
            (0, D) for none.

        Raises:
            UnreadableImageError: If a file cannot be read; the message names it.
            ValueError: If an array is not an image.
            TypeError: If a photograph is something else, such as a tensor.
        """
        if isinstance(images, Picture):
            return self._describe([images])[0]
        parts = [self._describe(batch) for batch in in_batches(images, batch_size or self.batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.active_peft_config.backbone_hidden_size)

    def _describe(self, images: list[Picture]) -> Float[Tensor, "B D"]:
        prepare = Preprocessing.of(self.model.active_peft_config)
        pixel_values = torch.stack([prepare(as_picture(image)) for image in images])
        with global_descriptors_only(self.model):
            return describe(self.model, pixel_values)[0]


def _as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type such as 'float32' or torch.bfloat16, got {dtype!r}.")
    return found


def _as_device(device: int | str | torch.device) -> torch.device:
    if isinstance(device, int):
        return torch.device("cpu") if device < 0 else torch.device("cuda", device)
    return torch.device(device)
