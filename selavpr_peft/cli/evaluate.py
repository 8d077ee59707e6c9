"""`selavpr evaluate`: Recall@N of retrieval and of re-ranking."""

from pathlib import Path
from typing import Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json
from selavpr_peft.cli.recalls import print_result


def evaluate(
    database: options.Places,
    queries: options.Places,
    positive_radius: options.PositiveRadius,
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    rerank_num: options.RerankNum = 100,
    query_frames: options.Frames = None,
    database_frames: options.Frames = None,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 16,
    num_workers: options.NumWorkers = 0,
    strict: options.Strict = False,
    rankings: Annotated[
        Path | None,
        typer.Option(
            help="Write every query's candidates, with ranks, distance and whether they are right: .csv or .parquet.",
            metavar="FILE",
            callback=options.writable_path,
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    r"""Locate queries in a database and print Recall@1/5/10 of retrieval and after re-ranking.

    A database image counts as a positive up to and including the radius. Queries without any positive, and queries
    whose image cannot be read, stay in the denominator. Images are resized as the adapter was trained with.

    Example:
        selavpr evaluate --database walk:day --queries walk:night --positive-radius 3 \
            --backbone facebook/dinov2-large --adapter me/selavpr-city --json result.json
        selavpr evaluate --database pitts30k/images/test --queries pitts30k/images/test --positive-radius 25 \
            --backbone facebook/dinov2-large --adapter me/selavpr-city
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    from selavpr_peft.data.loading import DATABASE, QUERIES, load_located
    from selavpr_peft.data.place_table import parse_frames
    from selavpr_peft.evaluation.evaluator import evaluate_two_stage
    from selavpr_peft.evaluation.protocol import model_protocol
    from selavpr_peft.evaluation.ranking_table import check_table_name, ranking_table, write_ranking_table

    if rankings is not None:
        check_table_name(rankings)
    database_places = load_located(database, DATABASE, frames=parse_frames(database_frames))
    query_places = load_located(queries, QUERIES, frames=parse_frames(query_frames))
    model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
    result = evaluate_two_stage(
        model,
        query_places,
        database_places,
        positive_radius=positive_radius,
        rerank_num=rerank_num,
        batch_size=batch_size,
        num_workers=num_workers,
        is_strict=strict,
    )
    protocol = {
        "database": database,
        "queries": queries,
        "database_frames": database_frames,
        "query_frames": query_frames,
        "positive_radius": positive_radius,
        "rerank_num": rerank_num,
        "adapter": adapter,
        "seed": None if adapter else seed,
        "dtype": dtype,
        **model_protocol(model, backbone),
    }
    if json != "-":
        print_result(result, protocol)
    if rankings is not None:
        write_ranking_table(ranking_table(result, query_places, database_places), rankings)
    if json is not None:
        write_json(result.as_report(protocol), json)
