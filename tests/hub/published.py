"""Adapters as they are published, small enough to make in a moment, and reports of them."""

import torch

from selavpr_peft import SelaConfig
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.calibration import Calibration
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint


def adapted(*, seed=0, backbone=None, **settings):
    """A model whose adapter differs from a fresh one."""
    config = SelaConfig(**{"local_channels": (8, 4), "image_size": (56, 84)} | settings)
    base = toy_backbone(num_layers=2) if backbone is None else backbone
    model = adapt_freshly(base, config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sela_" in name:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


def report_of(model, **changes):
    """What `selavpr evaluate --json` writes of a model."""
    protocol = {
        "database": "/home/somebody/walk:day",
        "queries": "/home/somebody/walk:night",
        "database_frames": None,
        "query_frames": "103-139",
        "positive_radius": 3.0,
        "rerank_num": 20,
        "backbone": "/home/somebody/backbone",
        "adapter": "/home/somebody/adapter",
        "adapter_fingerprint": adapter_fingerprint(model),
        "seed": None,
        "dtype": "float32",
        "image_size": [56, 84],
        "resize": "antialias",
        "position_interpolation": "backbone",
        "radius_unit": "frames",
    }
    return {
        "protocol": protocol,
        "num_queries": 37,
        "num_database": 140,
        "num_queries_without_positive": 2,
        "unreadable_images": [],
        "retrieval": {"1": 0.7117, "5": 0.9009, "10": 0.9369},
        "reranked": {"1": 0.9459, "5": 0.982, "10": 1.0},
    } | changes


def calibration_of_weights(model):
    """What `selavpr calibrate` fits for a model."""
    return Calibration(
        adapter=adapter_fingerprint(model),
        form={
            "backbone": "0f",
            "position_interpolation": "backbone",
            "preprocessing": {"image_size": [56, 84], "resize": "antialias"},
            "local_dtype": "int8",
            "kept_locations": {"map_size": [13, 21], "grid": [5, 7]},
            "rerank_num": 25,
        },
        intercept=-2.5,
        slope=0.03125,
        fitted_on={
            "data": "walk:dusk in walk.placedb",
            "num_queries": 61,
            "num_right": 43,
            "num_database": 141,
            "positive_radius": 4.0,
            "radius_unit": "frames",
        },
        quality={
            "num_folds": 10,
            "brier_score": 0.0711,
            "brier_score_of_share": 0.2084,
            "expected_calibration_error": 0.0512,
            "precision": 0.99,
            "threshold": {"probability": 0.9163, "num_answered": 31, "num_right": 30, "precision_at_least": 0.8556},
        },
    )


QUOTED = {
    "quoted_from": {"name": "the authors' README", "url": "https://github.com/Lu-Feng/SelaVPR"},
    "protocol": {"database": "MSLS-val", "queries": "MSLS-val", "rerank_num": 100},
    "num_queries": 740,
    "retrieval": {},
    "reranked": {"1": 0.908, "5": 0.964, "10": 0.972},
}
