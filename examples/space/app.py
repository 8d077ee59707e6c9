"""The page of `selavpr serve` as a Hugging Face Space: visitors drop a photograph and see where it was taken.

Variables of the Space say what is shown: BACKBONE and ADAPTER (Hub ids) and PLACES (a folder of the Space with
places.csv, as `walk` or `walk:day`). Without them a synthetic city is drawn and learnt, which takes a minute.
"""

import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from peft import PeftModel

from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.serving import create_app
from selavpr_peft.training import toy_run

PORT = 7860  # as app_port in README.md


def make_app(folder: Path) -> FastAPI:
    """Make the web application.

    Args:
        folder: Where the place database is written; kept, it makes the next start fast.
    """
    backbone, places = os.environ.get("BACKBONE"), os.environ.get("PLACES")
    if backbone and places:
        model = load_adapted_model(backbone, os.environ.get("ADAPTER"))
    else:
        model, places = learn_toy_city(folder)
    database = PlaceDatabase.build(model, places, folder / "places.placedb", local_dtype="int8")
    return create_app(PlaceRecognizer(model, database))


def learn_toy_city(folder: Path) -> tuple[PeftModel, str]:
    """Train a tiny network on a synthetic city; give it and the city by day."""
    city = toy_run.draw_toy_city(folder / "city")
    model = toy_run.toy_model()
    toy_run.train_on_toy_city(model, city, folder / "adapter")
    return model.eval(), f"{city}:day"


if __name__ == "__main__":
    uvicorn.run(make_app(Path("space")), host="0.0.0.0", port=PORT)
