"""Turn an official SelaVPR checkpoint into an adapter, describe an image with it, and write it back.

Prints "there and back: every tensor the same".

    python examples/convert_official_weights.py --checkpoint SelaVPR_msls.pth --backbone facebook/dinov2-large
"""

import argparse
import tempfile
from pathlib import Path

import torch

from selavpr_peft import SelaConfig
from selavpr_peft.data.toy_city import draw_view
from selavpr_peft.hub import convert_official_checkpoint, export_official_checkpoint, load_backbone, save_adapter
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.hub.safe_checkpoint import read_network_state
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone

parser = argparse.ArgumentParser()
parser.add_argument("--checkpoint", type=Path, help="file of the official train.py; one of a tiny network without it")
parser.add_argument("--backbone", help="Hub id or folder it was trained on; without it taken from the checkpoint")
arguments = parser.parse_args()
folder = Path(tempfile.mkdtemp())

# 1. A checkpoint. Without one, a tiny network with random adapters is written as the official code would.
if arguments.checkpoint:
    checkpoint, num_attention_heads = arguments.checkpoint, None  # width / 64, as in every DINOv2
else:
    checkpoint, num_attention_heads = folder / "official.pth", 2
    tiny = adapt_freshly(toy_backbone(), SelaConfig(position_interpolation="official"), seed=0)
    for name, weights in tiny.named_parameters():
        if "sela_up" in name:  # zero in a fresh adapter
            torch.nn.init.normal_(weights, std=0.02)
    export_official_checkpoint(tiny, checkpoint)

# 2. Convert it; no code in the file is run. A backbone that is named must have the weights of the frozen part.
backbone = load_backbone(arguments.backbone) if arguments.backbone else None
model = convert_official_checkpoint(checkpoint, backbone=backbone, num_attention_heads=num_attention_heads)

# 3. It describes images as the official network does.
preprocess = Preprocessing.of(model.active_peft_config)
with torch.no_grad():
    output = model(pixel_values=preprocess(draw_view(7, "day"))[None])
print(f"global descriptor {tuple(output.global_descriptors.shape)}")
print(f"local features    {tuple(output.local_features.shape)}")

# 4. Save what was trained: the frozen part is most of the checkpoint and known already.
save_adapter(model, "converted")
sizes_mb = [path.stat().st_size / 1e6 for path in (checkpoint, Path("converted/adapter_model.safetensors"))]
print(f"checkpoint {sizes_mb[0]:.1f} MB, adapter in converted/ {sizes_mb[1]:.1f} MB")

# 5. Write it back as a file that the official code loads.
export_official_checkpoint(model, folder / "back.pth")
before, after = (read_network_state(path) for path in (checkpoint, folder / "back.pth"))
is_same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
print(f"there and back: {'every tensor the same' if is_same else 'DIFFERENT tensors'}")
