"""Draw what a recognition saw: candidates, matches, attention, descriptor, features, recall and a map.

Prints how many pictures it has drawn and where they are.

    python examples/visualise.py --backbone facebook/dinov2-large --adapter my-city --data walk   # walk/places.csv
"""

import argparse
import tempfile
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import load_places, read_place_table
from selavpr_peft.data.schema import DEGREES
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.evaluation import TwoStageResult, evaluate_two_stage
from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.matched_points import match_pictures
from selavpr_peft.training import SelaTrainer, SelaTrainingArguments
from selavpr_peft.visualization import (
    attention_of_frozen_and_adapted,
    descriptor_maps,
    draw_attention,
    draw_candidates,
    draw_features,
    draw_matches,
    draw_place_map,
    draw_recall_curves,
    draw_similarity,
    feature_colours,
    patch_tokens,
    save_figure,
)
from selavpr_peft.visualization.place_map import coordinates

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2, trained for half a minute, without it")
parser.add_argument("--adapter", help="Hub id or folder of an adapter trained on that backbone")
parser.add_argument("--data", help="folder with places.csv and the traverses day and dusk; a toy city without it")
arguments = parser.parse_args()
folder = Path(tempfile.mkdtemp())
city = arguments.data or write_toy_city(folder / "city", num_places=90, traverses=("day", "dusk", "night"))

pictures = Path("pictures")

# 1. A model. Without a backbone, a tiny one learns the first places of a toy city.
if arguments.backbone:
    model = load_adapted_model(arguments.backbone, arguments.adapter)
else:
    config = SelaConfig(image_size=(112, 154), local_channels=(16, 8))
    model = adapt_freshly(toy_backbone(hidden_size=128, num_layers=2), config, seed=0)
preprocessing = Preprocessing.of(model.active_peft_config)
queries, database = (read_place_table(f"{city}:{traverse}", frames=(60, 89)) for traverse in ("dusk", "day"))


def locate() -> TwoStageResult:
    """Locate other places; a database image within two frames shows the query's."""
    return evaluate_two_stage(model.eval(), queries, database, preprocessing, positive_radius=2, rerank_num=10)


reports = {"before": locate().as_report({})}
if not arguments.backbone:
    settings = SelaTrainingArguments(
        output_dir=str(folder / "adapter"),
        positive_radius=0,
        negative_radius=0,
        queries_per_round=100,
        num_negatives=4,
        per_device_train_batch_size=8,
        num_train_epochs=3,
        local_margin=0.1,
        learning_rate=2e-3,
        save_strategy="no",
        report_to=[],
    )
    SelaTrainer(model=model, args=settings, train_places=load_places(city, frames=(0, 59))).train()
result = locate()
reports["after training"] = result.as_report({})

# 2. Recall@N of both evaluations.
save_figure(draw_recall_curves(reports).figure, pictures / "recall.png")

# 3. A query, its candidates after re-ranking, and which of them are right.
row, candidates = 10, result.predictions[10][:4]
query, others = queries[row]["image"], [database[int(candidate)]["image"] for candidate in candidates]
labels = [f"{rank}. {database[int(candidate)]['key']}" for rank, candidate in enumerate(candidates, start=1)]
are_correct = [candidate in result.positives[row] for candidate in candidates]
save_figure(draw_candidates(query, others, labels, are_correct).figure, pictures / "candidates.png")

# 4. What the query and the first candidate have in common: local features, and shares of the descriptors' similarity.
points = match_pictures(model, preprocessing, query, others[0])
axes = draw_matches(query, others[0], points.query_points_px, points.database_points_px, points.similarities)
save_figure(axes.figure, pictures / "matches.png")
shares = descriptor_maps(model, preprocessing, query, others[0])
save_figure(draw_similarity([query, others[0]], shares).figure, pictures / "descriptor.png")

# 5. Where the network looks, without and with the adapter, and what looks alike to it.
frozen, adapted = attention_of_frozen_and_adapted(model, preprocessing, query)
save_figure(draw_attention(query, frozen, adapted).figure, pictures / "attention.png")
grids = patch_tokens(model, preprocessing, [query, *others[:2]]).numpy()
save_figure(draw_features([query, *others[:2]], feature_colours(list(grids))).figure, pictures / "features.png")

# 6. Where all this is.
axes = draw_place_map(
    coordinates(database, DEGREES),
    is_degrees=True,
    query=coordinates(queries, DEGREES)[row],
    candidates=candidates.tolist(),
    positives=result.positives[row].tolist(),
)
save_figure(axes.figure, pictures / "map.png")
print(f"{len(list(pictures.glob('*.png')))} pictures drawn to {pictures}/")
