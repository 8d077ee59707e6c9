"""Keep the adapters of several cities over one backbone and answer each photograph with the right one.

Prints "cities over one backbone, switched in" and a number of milliseconds.

    python examples/several_cities.py --backbone facebook/dinov2-base --city me/helsinki helsinki --city me/turku turku
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from selavpr_peft import SelaConfig
from selavpr_peft.data import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.hub import add_adapter, load, load_backbone, save_adapter
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, activate_adapter_for

parser = argparse.ArgumentParser()
parser.add_argument("--backbone", help="Hub id or folder; a tiny random DINOv2 without it")
parser.add_argument(
    "--city",
    nargs=2,
    action="append",
    metavar=("ADAPTER", "DATA"),
    help="adapter, and folder with places.csv and the traverses day and night; three toy cities without it",
)
arguments = parser.parse_args()
folder = Path(tempfile.mkdtemp())
backbone = load_backbone(arguments.backbone) if arguments.backbone else toy_backbone()

# 1. Cities: an adapter and pictures each. Without any, three are drawn; their adapters are random, not trained.
cities = arguments.city or []
for number in range(0 if cities else 3):
    model = adapt_freshly(backbone, SelaConfig(image_size=(112, 154)), seed=number)
    save_adapter(model, folder / f"adapter-{number}")
    backbone = model.unload()
    cities.append((folder / f"adapter-{number}", write_toy_city(folder / f"city-{number}", num_places=8, seed=number)))

# 2. All adapters over one backbone in memory; each was trained on it, which is checked.
model = load(cities[0][0], backbone=backbone)
for number, (adapter, _) in enumerate(cities[1:], 1):
    add_adapter(model, adapter, name=f"city {number}")
names = list(model.peft_config)

# 3. A place database of each city, described with its adapter.
for number, (name, (_, data)) in enumerate(zip(names, cities, strict=True)):
    model.set_adapter(name)
    PlaceDatabase.build(model, f"{data}:day", folder / f"{number}.placedb")

# 4. Whoever opens a database later finds its adapter by the digest of the weights, once.
recognizers = {}
for number in reversed(range(len(cities))):
    database = PlaceDatabase.open(folder / f"{number}.placedb")
    name = activate_adapter_for(model, database)
    recognizers[name] = PlaceRecognizer(model, database)

# 5. From then on a photograph costs a switch of adapters, and the recognition.
switching_ms = []
for name, (_, data) in zip(names, cities, strict=True):
    query = read_place_table(f"{data}:night")[3]
    start = time.perf_counter()
    model.set_adapter(name)
    switching_ms.append(1e3 * (time.perf_counter() - start))
    best = recognizers[name].recognize(query["image"], top_k=1)[0]
    print(f"{data}: {query['key']} by the adapter {name!r} shows the place of {best.key}")
print(f"{len(cities)} cities over one backbone, switched in {statistics.median(switching_ms):.1f} ms")
