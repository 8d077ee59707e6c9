"""How commands print an evaluation: what was compared, what was missed, and Recall@N."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from selavpr_peft.cli.printing import lay_out

if TYPE_CHECKING:
    from selavpr_peft.evaluation.evaluator import TwoStageResult


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


def recall_table(rows: Mapping[str, Mapping[int, float] | None]) -> str:
    """Lay out Recall@N as a table in percent.

    Args:
        rows: Recall@N by N (shares in [0, 1]) of every stage; a stage that was not run is left out.
    """
    return lay_out(recall_rows(rows))


def recall_rows(rows: Mapping[str, Mapping[int, float] | None]) -> list[list[str]]:
    """Give the rows of a table of Recall@N in percent, the names of the columns first.

    Args:
        rows: Recall@N by N (shares in [0, 1]) of every stage; a stage that was not run is left out.
    """
    stages = {name: recalls for name, recalls in rows.items() if recalls is not None}
    names = ["", *(f"R@{n}" for n in next(iter(stages.values())))]
    return [
        names,
        *([name, *(f"{100 * share:.1f}" for share in recalls.values())] for name, recalls in stages.items()),
    ]
