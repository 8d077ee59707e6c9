"""Retrieve and re-rank places, and hand them on to hloc or COLMAP as the image pairs to match for camera poses.

Prints how many pairs of image names it has written.

    python examples/export_hloc_pairs.py --backbone facebook/dinov2-large --data walk   # walk/places.csv
"""

import argparse
import tempfile
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import read_place_table
from selavpr_peft.data.schema import picture_names
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.retrieval.image_pairs import image_pairs, name_within, write_image_pairs

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument("--data", help="folder with places.csv and the traverses day and night; a toy city without it")
arguments = parser.parse_args()
folder = Path(tempfile.mkdtemp())
data = arguments.data or write_toy_city(folder / "city", num_places=12)

# 1. A database of the city by day, and a recogniser.
if arguments.backbone:
    model = load_adapted_model(arguments.backbone)
else:
    model = adapt_freshly(toy_backbone(), SelaConfig(image_size=(112, 154)), seed=0)
recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, f"{data}:day", folder / "city.placedb"))

# 2. The best places of every night image, after re-ranking.
queries = picture_names(read_place_table(f"{data}:night"))
found = recognizer.recognize(queries, top_k=3, rerank_num=10)

# 3. Names relative to the image folder, as hloc's feature files and COLMAP's database have them.
names = [name_within(query, data) for query in queries]
candidates = [[name_within(place.image, data) for place in places] for places in found]

# 4. One pair a line. hloc reads it as the pairs of match_features and localize_sfm, COLMAP by
#    colmap matches_importer --database_path database.db --match_list_path pairs-query-selavpr.txt --match_type pairs
pairs = image_pairs(names, candidates)
write_image_pairs(pairs, Path("pairs-query-selavpr.txt"))
print(f"{pairs[0][0]} is to be matched with {pairs[0][1]} first")
print(f"{len(pairs)} pairs written to pairs-query-selavpr.txt")
