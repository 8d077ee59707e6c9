"""Locate the night images of a city in its day images, before and after re-ranking.

Prints "re-ranked R@1" and a share.

    python examples/evaluate_places.py --backbone facebook/dinov2-large --data walk   # walk/places.csv
"""

import argparse
import tempfile
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.evaluation import evaluate_two_stage
from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
from selavpr_peft.modeling.toy_backbone import toy_backbone

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument("--data", help="folder with places.csv and the traverses day and night; a toy city without it")
arguments = parser.parse_args()

# 1. Places: a folder with a table of images, traverses and frame numbers.
data = arguments.data or write_toy_city(Path(tempfile.mkdtemp()), num_places=20)
database, queries = read_place_table(f"{data}:day"), read_place_table(f"{data}:night")

# 2. A model: here with a fresh adapter, which leaves the descriptors those of the frozen backbone.
if arguments.backbone:
    model = load_adapted_model(arguments.backbone)
else:
    model = adapt_freshly(toy_backbone(), SelaConfig(image_size=(112, 154)), seed=0)

# 3. Both stages. Every query's own place, and nothing else, counts as found.
result = evaluate_two_stage(model, queries, database, positive_radius=0, rerank_num=10)

# 4. Recall@N: the share of queries with a positive among the first N.
print(f"retrieval R@1 {result.retrieval[1]:.2f}  R@5 {result.retrieval[5]:.2f}")
print(f"re-ranked R@1 {result.reranked[1]:.2f}  R@5 {result.reranked[5]:.2f}")
