"""Recall@N of several evaluations in one picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_peft.visualization.figures import SERIES, TEXT_SIZE, new_axes

if TYPE_CHECKING:
    import matplotlib.axes

_MARKERS = "osD^vPX"
_LEGEND_ROWS = 8
_STAGES = {"retrieval": ("retrieval", "--"), "reranked": ("re-ranked", "-")}

Report = Mapping[str, Any]


def read_report(path: str | Path) -> Report:
    """Read the report of an evaluation.

    Args:
        path: JSON file by `selavpr evaluate --json` or `selavpr demo --json`.

    Raises:
        ValueError: If it is no such file.
        OSError: If it cannot be read.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}); give one by selavpr evaluate --json.") from error
    for stage, (words, _) in _STAGES.items():
        if not _are_recalls(report.get(stage) if isinstance(report, dict) else None, stage):
            raise ValueError(f"{path} has no recalls ({words}); give a report by selavpr evaluate --json.")
    return report


def _are_recalls(recalls: Any, stage: str) -> bool:
    """Tell whether this is Recall@N by N; re-ranking may be missing, as of an adapter without local head."""
    if recalls is None:
        return stage != "retrieval"
    is_table = isinstance(recalls, dict) and len(recalls) > 0
    return is_table and all(n.isdecimal() and isinstance(share, int | float) for n, share in recalls.items())


def recall_points(recalls: Mapping[str, float] | Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Give a curve's points in ascending N.

    Args:
        recalls: Share in [0, 1] by N, which may be text as in JSON.

    Returns:
        Every N, and the recall in percent.

    Example:
        >>> recall_points({"10": 1.0, "5": 0.75})
        ([5, 10], [75.0, 100.0])
    """
    points = sorted((int(n), 100.0 * share) for n, share in recalls.items())
    return [n for n, _ in points], [percent for _, percent in points]


def draw_recall_curves(
    reports: Mapping[str, Report], *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Draw Recall@N of retrieval (dashed) and after re-ranking (solid) of several evaluations.

    Args:
        reports: What each evaluation wrote (`read_report`, or `TwoStageResult.as_report`), by its name in the legend.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes: N to the right on a logarithmic scale, recall in percent upwards. Each evaluation has its colour and
        its marker.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.ticker import NullLocator

    if ax is None:
        ax = new_axes(6.0, 4.2)
    all_n: set[int] = set()
    for number, (name, report) in enumerate(reports.items()):
        look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "marker": _MARKERS[number % len(_MARKERS)]}
        for stage, (words, style) in _STAGES.items():
            if report.get(stage):
                n_values, percents = recall_points(report[stage])
                ax.plot(n_values, percents, linestyle=style, label=f"{name}, {words}", **look, clip_on=False)
                all_n.update(n_values)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sorted(all_n), [str(n) for n in sorted(all_n)])
    ax.set_ylim(top=100)
    ax.set_xlabel("N", fontsize=TEXT_SIZE + 1)
    ax.set_ylabel("Recall@N in %", fontsize=TEXT_SIZE + 1)
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    columns = 1 if len(ax.lines) <= _LEGEND_ROWS else 2
    ax.legend(fontsize=TEXT_SIZE, loc="best", framealpha=0.9, handlelength=3, ncols=columns)
    return ax
