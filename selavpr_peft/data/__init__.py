"""Places: tables of geo-tagged images, and which of them show the same place."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.data.loading import load_places
    from selavpr_peft.data.place_table import read_place_table
    from selavpr_peft.data.positives import positives_within
    from selavpr_peft.data.schema import positions

__all__ = ["load_places", "positions", "positives_within", "read_place_table"]

__getattr__, __dir__, _ = _lazy_loader.attach(
    __name__,
    submod_attrs={
        "loading": ["load_places"],
        "place_table": ["read_place_table"],
        "positives": ["positives_within"],
        "schema": ["positions"],
    },
)
