"""A tiny DINOv2 with random weights, for demonstrations and tests that must not download anything."""

import torch
from transformers import Dinov2Config, Dinov2Model


def toy_backbone(*, seed: int = 0, hidden_size: int = 64, num_layers: int = 4) -> Dinov2Model:
    """Make a small DINOv2 of random weights, in evaluation mode. It knows nothing of the world.

    Args:
        seed: Seed of the weights; the state of PyTorch's own generator is left as it was.
        hidden_size: Width, a multiple of 32.
        num_layers: Number of blocks.
    """
    config = Dinov2Config(
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        image_size=224,
        patch_size=14,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' too
        return Dinov2Model(config).eval()
