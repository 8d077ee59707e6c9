"""Recall@N of retrieval and of re-ranking, and how likely an answer is to be right."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.evaluation.calibration import fit_calibration
    from selavpr_peft.evaluation.database_evaluator import evaluate_database
    from selavpr_peft.evaluation.evaluator import TwoStageResult, evaluate_two_stage
    from selavpr_peft.evaluation.ranking_table import ranking_table, write_ranking_table
    from selavpr_peft.evaluation.recall import recall_at_n

__all__ = [
    "TwoStageResult",
    "evaluate_database",
    "evaluate_two_stage",
    "fit_calibration",
    "ranking_table",
    "recall_at_n",
    "write_ranking_table",
]

__getattr__, __dir__, _ = _lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["fit_calibration"],
        "database_evaluator": ["evaluate_database"],
        "evaluator": ["TwoStageResult", "evaluate_two_stage"],
        "ranking_table": ["ranking_table", "write_ranking_table"],
        "recall": ["recall_at_n"],
    },
)
