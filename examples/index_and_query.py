"""Build a database of a city by day, then locate an image taken in the rain.

Prints "the query was taken at" and a place.

    python examples/index_and_query.py --backbone facebook/dinov2-large --data walk   # walk/places.csv
"""

import argparse
import tempfile
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument("--data", help="folder with places.csv and the traverses day and rain; a toy city without it")
arguments = parser.parse_args()
folder = Path(tempfile.mkdtemp())
data = arguments.data or write_toy_city(folder / "city", num_places=12, traverses=("day", "rain"))

# 1. A model, the same for building and for asking.
if arguments.backbone:
    model = load_adapted_model(arguments.backbone)
else:
    model = adapt_freshly(toy_backbone(), SelaConfig(image_size=(112, 154)), seed=0)

# 2. A database on disk. If this is interrupted, the same line goes on where it stopped.
database = PlaceDatabase.build(model, f"{data}:day", folder / "city.placedb", local_dtype="int8")

# 3. A photograph, and where it was taken.
recognizer = PlaceRecognizer(model, database)
query = read_place_table(f"{data}:rain")[0]["image"]
for place in recognizer.recognize(query, top_k=3, rerank_num=10):
    print(f"{place.key}  {place.coordinates}  {place.num_matches} matches, similarity {place.score:.3f}")
best = recognizer.recognize(query, top_k=1)[0]
print(f"the query was taken at {best.key}")

# 4. What the two pictures have in common, in pixels of both.
points = recognizer.match(query, best)
print(f"{len(points.similarities)} matched points, the first at {points.query_points_px[0]} in the query")
