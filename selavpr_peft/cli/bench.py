"""`selavpr bench`: what locating a photograph costs on this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json


def bench(
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    num_places: Annotated[int, typer.Option(help="Places in the index that is searched.", min=1)] = 1000,
    rerank_num: options.RerankNum = 100,
    local_dtype: options.LocalDType = "float16",
    repeats: Annotated[int, typer.Option(help="How often every stage is timed.", min=1)] = 20,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Time extraction, search and re-ranking of one photograph, and tell what a place takes.

    Recall is measured by `selavpr evaluate`.

    Example:
        selavpr bench --backbone facebook/dinov2-base --num-places 100000 --local-dtype int8
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    import torch

    from selavpr_peft.retrieval.latency import measure_latencies

    found = measure_latencies(
        options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed),
        num_places=num_places,
        rerank_num=rerank_num,
        local_dtype=local_dtype,
        repeats=repeats,
        seed=seed,
    )
    if json != "-":
        typer.echo(f"{'':<12}{'p50':>12}{'p95':>12}")
        for row in found.latencies:
            typer.echo(f"{row.stage:<12}{1e3 * row.p50_s:>9.2f} ms{1e3 * row.p95_s:>9.2f} ms   {row.what}")
        typer.echo(
            f"\na place takes {found.descriptor_bytes:,} bytes for its descriptor and {found.local_feature_bytes:,}"
            f" for its local features; peak memory {found.peak_memory_bytes / 1e6:.0f} MB"
        )
    if json is not None:
        write_json(asdict(found) | {"threads": torch.get_num_threads(), "torch": torch.__version__}, json)
