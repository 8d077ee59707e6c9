"""Adapt a backbone, describe two images, save the adapter and load it again.

Prints "saved and loaded: same descriptors".

    python examples/adapt_a_backbone.py --backbone facebook/dinov2-large
"""

import argparse
import tempfile

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModel

from selavpr_peft import SelaConfig
from selavpr_peft.data.toy_city import draw_view
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
arguments = parser.parse_args()


def load_backbone() -> torch.nn.Module:
    """Load the backbone that was asked for."""
    return AutoModel.from_pretrained(arguments.backbone) if arguments.backbone else toy_backbone()


# 1. Wrap the frozen backbone. Only adapters and heads are trainable.
model = get_peft_model(load_backbone(), SelaConfig()).eval()
model.print_trainable_parameters()

# 2. Turn pictures into network input as the adapter's configuration says.
config = model.active_peft_config
preprocess = Preprocessing.of(config)
pixel_values = torch.stack([preprocess(draw_view(7, traverse)) for traverse in ("day", "night")])

# 3. Describe them: one global descriptor each, and dense local features.
with torch.no_grad():
    output = model(pixel_values=pixel_values)
print(f"global descriptors {tuple(output.global_descriptors.shape)}")
print(f"local features     {tuple(output.local_features.shape)}")
print(f"similarity of day and night {output.global_descriptors[0] @ output.global_descriptors[1]:.3f}")

# 4. Save the adapter (not the backbone) and load it onto a fresh copy.
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(load_backbone(), folder).eval()
with torch.no_grad():
    again = loaded(pixel_values=pixel_values)
same = torch.equal(output.global_descriptors, again.global_descriptors)
print(f"saved and loaded: {'same' if same else 'DIFFERENT'} descriptors")
