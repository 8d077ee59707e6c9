"""What each part of SelaVPR contributes on real photographs: trained alike, evaluated alike, one seed.

    python benchmarks/ablation.py --data DIR --backbone DIR --train-frames 0-99 --query-frames 103-139 \
        --database-frames 0-139 --json benchmarks/results/ablation.json

Data, protocol and settings are those of real_photos.py (night_right located among day_right), with as many mining
rounds as --rounds says. The frozen row is the backbone with adapters as they are initialised, which leave its global
descriptors as they were; its local head is random.
"""

import argparse
from typing import Any

from measuring import write_report
from real_photos import evaluate, evaluation_pairs, protocol, shares, train
from transformers import set_seed

from selavpr_peft.hub.loading import adapt_freshly, load_backbone
from selavpr_peft.tuner.config import SelaConfig

VARIANTS: dict[str, dict[str, bool]] = {
    "frozen": {},
    "serial adapters only": {"use_parallel_adapter": False},
    "parallel adapters only": {"use_serial_adapter": False},
    "both, without local head": {"use_local_head": False},
    "full": {},
}


def run_variant(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one variant, except the frozen one, and evaluate it."""
    set_seed(arguments.seed)
    model = adapt_freshly(load_backbone(arguments.backbone), SelaConfig(**VARIANTS[name]), seed=arguments.seed)
    trained, _ = model.get_nb_trainable_parameters()
    if name != "frozen":
        train(model, arguments.seed, arguments, num_train_epochs=arguments.rounds)
    (pair,) = evaluation_pairs(arguments).values()
    recalls = shares(evaluate(model.eval(), *pair))
    return recalls | {"trained_parameters": 0 if name == "frozen" else trained}


def main() -> None:
    """Run all variants, print the table and write it down."""
    arguments = parse_arguments()
    report: dict[str, Any] = {"protocol": protocol(arguments) | {"seed": arguments.seed, "rounds": arguments.rounds}}
    report["variants"] = {}
    print(f"{'':<26}{'retrieval R@1/5/10':>22}{'re-ranked R@1/5/10':>22}{'parameters':>12}")
    for name in VARIANTS:
        row = report["variants"][name] = run_variant(name, arguments)
        cells = [" ".join(f"{100 * x:6.1f}" for x in row.get(s, {}).values()) for s in ("retrieval", "reranked")]
        print(f"{name:<26}{cells[0]:>22}{cells[1]:>22}{row['trained_parameters']:>12}", flush=True)
        write_report(arguments.json, report)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--backbone", "--train-frames", "--query-frames", "--database-frames"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="file for the results")
    parser.set_defaults(only_main=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
