"""What is saved, and what is lost, when re-ranking leaves clear leads of retrieval alone.

    python benchmarks/adaptive_reranking.py --data DIR --backbone DIR --adapter DIR/seed-1 \
        --json benchmarks/results/adaptive_reranking.json

The queries of quantised_recall.py are located with 20 candidates. With a window, only candidates whose similarity lies
within it of the best one's are re-ranked (`PlaceRecognizer.recognize(..., rerank_window=...)`).
"""

import argparse
from typing import Any

import numpy as np
import torch
from measuring import environment, write_report
from peft import PeftModel
from quantised_recall import describe, evaluated_pairs
from real_photos import RERANK_NUM
from torch import Tensor
from tqdm.auto import tqdm

from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.matching import count_mutual_matches, num_in_doubt, rerank
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex

WINDOWS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def candidates_of(model: PeftModel, queries: Any, database: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Give rows, similarities and match counts of the candidates of all queries, each (Q, K)."""
    (query_descriptors, query_features), (descriptors, features) = (
        describe(model, table) for table in (queries, database)
    )
    found = DescriptorIndex.build(descriptors).search(query_descriptors, RERANK_NUM)
    similarities, rows = map(torch.from_numpy, found)
    counts = [
        count_mutual_matches(query, features[candidates])
        for query, candidates in zip(tqdm(query_features, unit="query"), rows, strict=True)
    ]
    return rows, similarities, torch.stack(counts)


def main() -> None:
    """Locate all queries once, then apply every window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--backbone", "--adapter"):
        parser.add_argument(name, required=True)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    model = load_adapted_model(arguments.backbone, arguments.adapter)
    hits: dict[float | None, list[bool]] = {window: [] for window in (None, *WINDOWS)}
    compared: dict[float | None, list[int]] = {window: [] for window in (None, *WINDOWS)}
    for queries, database, positives in evaluated_pairs(arguments.data):
        rows, similarities, counts = candidates_of(model, queries, database)
        for window in (None, *WINDOWS):
            numbers = [RERANK_NUM] * len(rows) if window is None else num_in_doubt(similarities, window).tolist()
            for query, number in enumerate(numbers):
                first = rerank(counts[query, :number], rows[query, :number])[0] if number else rows[query, 0]
                hits[window].append(int(first) in positives[query])
                compared[window].append(number)
    exact = np.array(hits[None])
    report: dict[str, Any] = {**environment(), "num_queries": len(exact), "rerank_num": RERANK_NUM, "windows": []}
    for window in (None, *WINDOWS):
        found = np.array(hits[window])
        row = {
            "window": window,
            "recall_at_1": float(found.mean()),
            "won": int((found & ~exact).sum()),
            "lost": int((exact & ~found).sum()),
            "mean_compared": float(np.mean(compared[window])),
            "skipped": float(np.mean(np.array(compared[window]) == 0)),
        }
        report["windows"].append(row)
        print(row, flush=True)
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
