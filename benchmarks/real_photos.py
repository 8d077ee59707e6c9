"""Learn from real photographs and locate others: recall before and after training, for several seeds.

    python benchmarks/real_photos.py --data DIR --backbone DIR --train-frames 0-99 --query-frames 103-139 \
        --database-frames 0-139 --seeds 1,2,3 --save DIR --json OUT.json

DIR is a folder with places.csv and the traverses day_left, day_right and night_right. The protocol is fixed: float32,
224x224, antialias, the backbone's own positions, 20 candidates re-ranked, positives within 3 frames. Adapters are
trained on the training frames of all three traverses. With the shared material at hand, `corridor`, a place that no
adapter was trained on, is evaluated, too. Memory and time are those of the whole process, one seed after another.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import environment, write_report
from peft import PeftModel
from transformers import set_seed

from selavpr_peft.data.loading import load_places
from selavpr_peft.data.place_table import parse_frames, read_place_table
from selavpr_peft.evaluation.evaluator import TwoStageResult, evaluate_two_stage
from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.latency import peak_memory_bytes
from selavpr_peft.training import SelaTrainer, SelaTrainingArguments

RADIUS_FRAMES = 3
CORRIDOR_RADIUS_FRAMES = 2
RERANK_NUM = 20
N_VALUES = (1, 5, 10)

NIGHT_WEIGHT = 2.0
"""How often a query by night is drawn, relative to one by day."""

TRAINING: dict[str, Any] = {
    "mining": "weighted",
    "positive_radius": 3,
    "negative_radius": 8,
    "queries_per_round": 100,
    "queries_per_epoch": 100,
    "negative_pool": 300,
    "num_train_epochs": 4,
    "learning_rate": 1.5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "per_device_train_batch_size": 4,
    "local_margin": 0.1,
    "colour_jitter": 0.5,
    "random_resized_crop": 0.3,
}
"""What differs from the official settings: few images, so few and larger steps; a margin, without which the local loss
is zero after a few of them; and queries changed at random, without which the adapters fit the places they were trained
on."""


def main() -> None:
    """Run all seeds and write what was measured."""
    arguments = parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    report: dict[str, Any] = {"protocol": protocol(arguments), "seeds": {}}
    for seed in seeds:
        report["seeds"][str(seed)] = run_seed(seed, arguments)
        print(json.dumps({seed: report["seeds"][str(seed)]}, indent=1), flush=True)
    report["mean"] = {
        state: {
            stage: {
                str(n): float(np.mean([run[state][stage][str(n)] for run in report["seeds"].values()]))
                for n in N_VALUES
            }
            for stage in ("retrieval", "reranked")
        }
        for state in ("untrained", "trained")
    }
    write_report(arguments.json, report)
    print_table(report)


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, train, evaluate again; then the same for the other pairs of traverses."""
    start = time.perf_counter()
    set_seed(seed)
    model = load_adapted_model(arguments.backbone, seed=seed)
    (main_pair, pair), *others = evaluation_pairs(arguments).items()
    before = {main_pair: evaluate(model, *pair)}
    train_seconds = train(model, seed, arguments)
    after = {main_pair: evaluate(model, *pair)}
    total_seconds = time.perf_counter() - start
    if arguments.save:
        model.save_pretrained(Path(arguments.save) / f"seed-{seed}")
    untrained = load_adapted_model(arguments.backbone, seed=seed)
    for name, other in others:
        before[name], after[name] = evaluate(untrained, *other), evaluate(model, *other)
    return {
        "untrained": shares(before[main_pair]),
        "trained": shares(after[main_pair]),
        "train_seconds": train_seconds,
        "seconds_with_both_evaluations": total_seconds,
        "peak_rss_bytes": peak_memory_bytes(),
        "paired": {name: paired(before[name], after[name]) for name in before},
        "others": {name: {"untrained": shares(before[name]), "trained": shares(after[name])} for name, _ in others},
    }


def train(model: PeftModel, seed: int, arguments: argparse.Namespace, **changes: Any) -> float:
    """Train in place; the seconds it took, mining included."""
    places = load_places(arguments.data, frames=parse_frames(arguments.train_frames))
    start = time.perf_counter()
    folder = tempfile.mkdtemp()
    settings = SelaTrainingArguments(
        output_dir=folder, seed=seed, save_strategy="no", logging_steps=5, report_to=[], **TRAINING | changes
    )
    weights = np.where(np.array(places["queries"]["traverse"][:]) == "night_right", NIGHT_WEIGHT, 1.0)
    SelaTrainer(model=model, args=settings, train_places=places, query_weights=weights).train()
    shutil.rmtree(folder)
    model.eval()
    return time.perf_counter() - start


def evaluation_pairs(arguments: argparse.Namespace) -> dict[str, tuple[Any, Any, int]]:
    """Queries, database and radius of everything that is evaluated; the first is what is reported."""
    queries, database = parse_frames(arguments.query_frames), parse_frames(arguments.database_frames)
    pairs = {
        f"{query}->{base}": (
            read_place_table(f"{arguments.data}:{query}", frames=queries),
            read_place_table(f"{arguments.data}:{base}", frames=database),
            RADIUS_FRAMES,
        )
        for query, base in (("night_right", "day_right"), ("night_right", "day_left"), ("day_left", "day_right"))
    }
    corridor = corridor_places()
    if corridor is not None:
        pairs["corridor query->ref"] = (*corridor, CORRIDOR_RADIUS_FRAMES)
    return pairs if not arguments.only_main else dict([next(iter(pairs.items()))])


def corridor_places() -> tuple[Any, Any] | None:
    """Queries and database of the corridor in the shared material; None, and a line that says so, without it."""
    shared = Path(os.environ.get("SELAVPR_SHARED_DIR", Path(__file__).parent.parent.parent / "shared"))
    corridor = shared / "data" / "corridor"
    if not corridor.is_dir():
        print(f"corridor is left out: there is no {corridor}")
        return None
    return read_place_table(f"{corridor}:query"), read_place_table(f"{corridor}:ref")


def evaluate(model: PeftModel, queries: Any, database: Any, radius: int) -> TwoStageResult:
    """Run both stages by the fixed protocol."""
    return evaluate_two_stage(
        model,
        queries,
        database,
        Preprocessing(image_size=(224, 224), resize="antialias"),
        positive_radius=radius,
        rerank_num=RERANK_NUM,
        n_values=N_VALUES,
    )


def shares(result: TwoStageResult) -> dict[str, Any]:
    """Recall@N of both stages, as the evaluation report has it; of retrieval alone without a local head."""
    report = result.as_report({})
    return {stage: report[stage] for stage in ("retrieval", "reranked") if stage in report}


def paired(before: TwoStageResult, after: TwoStageResult) -> dict[str, dict[str, int]]:
    """Queries won and lost at rank 1 by training."""
    counts = {}
    for stage in ("retrieved", "predictions"):
        hits = [
            np.array([rows[0] in found for rows, found in zip(getattr(r, stage), r.positives, strict=True)])
            for r in (before, after)
        ]
        name = "retrieval" if stage == "retrieved" else "reranked"
        counts[name] = {"won": int((hits[1] & ~hits[0]).sum()), "lost": int((hits[0] & ~hits[1]).sum())}
    return counts


def protocol(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that must be known to repeat this."""
    return {
        "train_frames": arguments.train_frames,
        "query_frames": arguments.query_frames,
        "database_frames": arguments.database_frames,
        "positive_radius_frames": RADIUS_FRAMES,
        "rerank_num": RERANK_NUM,
        "image_size": [224, 224],
        "resize": "antialias",
        "position_interpolation": "backbone",
        "dtype": "float32",
        "training": TRAINING | {"night_weight": NIGHT_WEIGHT},
        **environment(),
    }


def print_table(report: dict[str, Any]) -> None:
    """Print the means, and every pair of traverses with the queries won and lost."""
    for state, stages in report["mean"].items():
        for stage, recalls in stages.items():
            print(f"{state:<10} {stage:<10}" + "".join(f"{100 * share:7.1f}" for share in recalls.values()))
    for seed, run in report["seeds"].items():
        for name, counts in run["paired"].items():
            text = ", ".join(f"{stage} won {c['won']} lost {c['lost']}" for stage, c in counts.items())
            print(f"seed {seed}  {name:<26} {text}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--backbone", "--train-frames", "--query-frames", "--database-frames"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--save", help="folder for the adapters, as seed-N")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--only-main", action="store_true", help="evaluate the first pair of traverses only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
