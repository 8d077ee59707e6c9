"""Places: tables of geo-tagged images, and which of them show the same place."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.data.loading import load_places

__all__ = ["load_places"]

__getattr__, __dir__, _ = _lazy_loader.attach(__name__, submod_attrs={"loading": ["load_places"]})
