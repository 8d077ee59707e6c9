"""Retrieve, then re-rank: encode images, search global descriptors, keep local features for the second stage."""

from selavpr_peft.retrieval.adapter_choice import activate_adapter_for
from selavpr_peft.retrieval.place_database import PlaceDatabase
from selavpr_peft.retrieval.place_recognizer import PlaceRecognizer, RecognizedPlace

__all__ = ["PlaceDatabase", "PlaceRecognizer", "RecognizedPlace", "activate_adapter_for"]
