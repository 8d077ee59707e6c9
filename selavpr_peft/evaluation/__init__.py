"""Recall@N of retrieval and of re-ranking."""

from selavpr_peft.evaluation.recall import recall_at_n

__all__ = ["recall_at_n"]
