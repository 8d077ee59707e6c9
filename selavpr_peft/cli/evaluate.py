"""`selavpr evaluate`: Recall@N of retrieval and of re-ranking."""

from typing import TYPE_CHECKING, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, recall_table, write_json

if TYPE_CHECKING:
    from selavpr_peft.evaluation.evaluator import TwoStageResult


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
    json: options.Json = None,
) -> None:
    r"""Locate queries in a database and print Recall@1/5/10 of retrieval and after re-ranking.

    A database image counts as a positive up to and including the radius. Queries without any positive, and queries
    whose image cannot be read, stay in the denominator. Images are resized as the adapter was trained with.

    Example:
        selavpr evaluate --database walk:day --queries walk:night --positive-radius 3 \
            --backbone facebook/dinov2-large --adapter me/selavpr-city --json result.json
    """
    options.check_dtype(dtype)
    quiet_host_libraries()
    from selavpr_peft.data.place_table import parse_frames, read_place_table
    from selavpr_peft.evaluation.evaluator import evaluate_two_stage
    from selavpr_peft.evaluation.protocol import model_protocol
    from selavpr_peft.modeling.preprocessing import Preprocessing

    database_places = read_place_table(database, frames=parse_frames(database_frames))
    query_places = read_place_table(queries, frames=parse_frames(query_frames))
    model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
    result = evaluate_two_stage(
        model,
        query_places,
        database_places,
        Preprocessing.of(model.active_peft_config),
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
    if json is not None:
        write_json(result.as_report(protocol), json)


def print_result(result: "TwoStageResult", protocol: dict[str, Any]) -> None:
    """Print what was compared, under which settings, and the table of recalls.

    Args:
        result: What the evaluation found.
        protocol: Its settings.
    """
    lines = [
        f"database  {protocol['database']}: {result.num_database} images",
        f"queries   {protocol['queries']}: {result.num_queries} images, positives within"
        f" {protocol['positive_radius']:g} {result.radius_unit}",
        model_line(protocol),
        *(f"          {sentence}" for sentence in what_was_missed(result)),
    ]
    typer.echo("\n".join(lines))
    typer.echo("\n" + both_stages(result, protocol["rerank_num"]))


def model_line(protocol: dict[str, Any]) -> str:
    """Say which model saw the images in which size.

    Args:
        protocol: The settings of an evaluation.
    """
    height, width = protocol["image_size"]
    return (
        f"model     {protocol['backbone']} with {protocol['adapter'] or 'a fresh adapter'}, {protocol['dtype']},"
        f" {height}x{width} {protocol['resize']}"
    )


def what_was_missed(result: "TwoStageResult") -> list[str]:
    """Say what lowers the recall whatever the model is.

    Args:
        result: What the evaluation found.
    """
    sentences = []
    if result.num_queries_without_positive:
        sentences.append(f"{result.num_queries_without_positive} queries have no positive and count as missed")
    if result.unreadable:
        sentences.append(f"{len(result.unreadable)} images could not be read")
    return sentences


def both_stages(result: "TwoStageResult", rerank_num: int) -> str:
    """Lay out Recall@N of retrieval and re-ranking.

    Args:
        result: What the evaluation found.
        rerank_num: Candidates that were re-ranked.
    """
    return recall_table({"retrieval": result.retrieval, f"re-ranked (top {rerank_num})": result.reranked})
