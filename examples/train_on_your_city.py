"""Train an adapter on one part of a city and recognise places in another, before and after.

Prints "unseen places: retrieval R@1" before and after training.

    python examples/train_on_your_city.py --backbone facebook/dinov2-base --data walk   # walk/places.csv, see docs
"""

import argparse
import tempfile
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import load_places, read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.evaluation import evaluate_two_stage
from selavpr_peft.hub.loading import adapt_freshly, load_backbone
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.training import SelaTrainer, SelaTrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument("--data", help="folder with places.csv and the traverses day and night; a toy city without it")
arguments = parser.parse_args()

# 1. Places with frame numbers: train on frames 0-89, recognise frames 90-129.
folder = Path(tempfile.mkdtemp())
traverses = ("day", "night", "dusk", "rain")
data = arguments.data or write_toy_city(folder / "city", num_places=130, traverses=traverses, size=(56, 70))
training_places = load_places(data, frames=(0, 89))
queries, database = (read_place_table(f"{data}:{traverse}", frames=(90, 129)) for traverse in ("night", "day"))

# 2. A frozen backbone with a fresh adapter.
if arguments.backbone:
    model = adapt_freshly(load_backbone(arguments.backbone), SelaConfig(), seed=0)
else:
    config = SelaConfig(image_size=(56, 70), local_channels=(16, 8))
    model = adapt_freshly(toy_backbone(hidden_size=128, num_layers=2), config, seed=0)


def recall() -> float:
    """Share of unseen queries whose first retrieved image shows their place."""
    result = evaluate_two_stage(model.eval(), queries, database, positive_radius=0, rerank_num=5)
    return result.retrieval[1]


before = recall()

# 3. Train. Places have frame numbers, so the radii are in frames; larger steps than the official ones suit few images.
settings = SelaTrainingArguments(
    output_dir=str(folder / "adapter"),
    positive_radius=0,
    negative_radius=0,
    queries_per_round=100,
    num_negatives=4,
    per_device_train_batch_size=8,
    num_train_epochs=8,
    learning_rate=2e-3,
    save_strategy="no",
    report_to=[],
)
trainer = SelaTrainer(model=model, args=settings, train_places=training_places)
trainer.train()
trainer.save_model()  # adapter_config.json and adapter_model.safetensors: load them with PeftModel.from_pretrained

# 4. What it brought on places that were not trained on.
print(f"unseen places: retrieval R@1 {before:.2f} before, {recall():.2f} after training")
