"""What an adapted backbone returns."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


@dataclass
class SelaOutput(BaseModelOutputWithPooling):
    """Hold the backbone's own output and the two descriptions of the place.

    `last_hidden_state`, `pooler_output`, `hidden_states` and `attentions` are the backbone's, unchanged.

    With `return_dict=False` the model returns a tuple instead: the backbone's items, then always
    `global_descriptors` and `local_features` as the last two, in this order (None where there is no local head).

    Args:
        global_descriptors: (B, D) float32, unit L2 norm: for retrieval by inner product.
        local_features: (B, 4h-3, 4w-3, C) float32, unit L2 norm per location, for a patch grid of h x w: for
            re-ranking. None with `use_local_head=False`.
    """

    global_descriptors: torch.FloatTensor | None = None
    local_features: torch.FloatTensor | None = None
