"""`selavpr bench`: what locating a photograph costs on this machine, and how often it succeeds."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import lay_out, quiet_host_libraries, write_json
from selavpr_peft.cli.recalls import model_line, recall_rows, what_was_missed

if TYPE_CHECKING:
    from peft import PeftModel

    from selavpr_peft.evaluation.evaluator import TwoStageResult
    from selavpr_peft.retrieval.latency import Measurements

COLUMN_WIDTH = 14


def bench(
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    num_places: Annotated[int, typer.Option(help="Places in the index that is searched.", min=1)] = 1000,
    rerank_num: options.RerankNum = 100,
    local_dtype: options.LocalDType = "float16",
    keep_locations: options.KeepLocations = None,
    repeats: Annotated[int, typer.Option(help="How often every stage is timed.", min=1)] = 20,
    database: options.OptionalPlaces = None,
    queries: options.OptionalPlaces = None,
    positive_radius: options.OptionalPositiveRadius = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    r"""Time extraction, search and re-ranking of one photograph, and tell what an image of a database takes.

    With places to locate and places to locate them in, Recall@1/5/10 is measured, too: in a database of the form that
    is timed, with the index that suits its size. Recall by exact search and all local features in float32 is what
    `selavpr evaluate` measures.

    Example:
        selavpr bench --backbone facebook/dinov2-base --num-places 100000 --local-dtype int8
        selavpr bench --backbone facebook/dinov2-base --adapter my-city --local-dtype int8 --keep-locations 500 \
            --database walk:day --queries walk:night --positive-radius 3
    """
    options.check_dtype(dtype)
    places = _places(database, queries, positive_radius)
    quiet_host_libraries()
    from selavpr_peft.data.loading import DATABASE, QUERIES, load_located
    from selavpr_peft.evaluation.database_evaluator import evaluate_database
    from selavpr_peft.evaluation.protocol import model_protocol
    from selavpr_peft.retrieval.description_form import check_stored_dtype
    from selavpr_peft.retrieval.latency import measure_latencies

    check_stored_dtype(local_dtype)
    tables = {role: load_located(places[role], role) for role in (QUERIES, DATABASE) if places}
    model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
    form: dict[str, Any] = {
        "rerank_num": rerank_num,
        "local_dtype": local_dtype,
        "keep_locations": keep_locations,
    }
    cost = measure_latencies(model, num_places=num_places, repeats=repeats, seed=seed, **form)
    found = evaluate_database(model, **tables, positive_radius=places["positive_radius"], **form) if places else None
    protocol = {
        **_machine(model),
        "num_places": num_places,
        **form,
        "repeats": repeats,
        "adapter": adapter,
        "seed": seed,
        "dtype": dtype,
        **model_protocol(model, backbone),
    }
    if json != "-":
        typer.echo(f"machine   {protocol['device']}, {protocol['threads']} threads, PyTorch {protocol['torch']}")
        typer.echo(f"{model_line(protocol)}\n")
        typer.echo(lay_out([*_cost_rows(cost), *_recall_rows(found, rerank_num)], COLUMN_WIDTH))
        for sentence in [] if found is None else what_was_missed(found):
            typer.echo(sentence)
    if json is not None:
        recall = {} if found is None else {"recall": found.as_report(places)}
        write_json({"protocol": protocol} | asdict(cost) | recall, json)


def _places(database: str | None, queries: str | None, positive_radius: float | None) -> dict[str, Any]:
    """Give what recall is measured on, or nothing."""
    given = {"database": database, "queries": queries, "positive_radius": positive_radius}
    missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return {}
    if missing:
        raise ValueError(
            "Recall needs --database, --queries and --positive-radius together, got no"
            f" {' and no '.join(missing)}; give all three, or none to leave recall out."
        )
    return given


def _machine(model: "PeftModel") -> dict[str, Any]:
    """Say what was measured on and with what."""
    import platform

    import torch

    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _cost_rows(cost: "Measurements") -> list[list[str]]:
    return [
        ["", "p50", "p95"],
        *(
            [_name(row.stage, row.what), f"{1e3 * row.p50_s:.2f} ms", f"{1e3 * row.p95_s:.2f} ms"]
            for row in cost.latencies
        ),
        ["", "bytes", "of float32"],
        *(
            [_name(row.part, row.what), f"{row.num_bytes:,}", f"{row.num_bytes / row.float32_bytes:.1%}"]
            for row in cost.sizes
        ),
        [_name("peak memory", "of this process"), f"{cost.peak_memory_bytes:,}"],
    ]


def _recall_rows(found: "TwoStageResult | None", rerank_num: int) -> list[list[str]]:
    if found is None:
        return []
    where = f"{found.num_queries} queries, {found.num_database} images"
    return recall_rows(
        {_name("retrieval", where): found.retrieval, _name("re-ranked", f"top {rerank_num}"): found.reranked}
    )


def _name(what: str, how: str) -> str:
    return f"{what:<16}{how}"
