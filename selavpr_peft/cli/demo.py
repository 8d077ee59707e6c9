"""`selavpr demo`: the whole way from images to recognised places, on a synthetic city or on your photographs."""

import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json
from selavpr_peft.cli.recalls import both_stages, print_result
from selavpr_peft.files import check_writable

if TYPE_CHECKING:
    from peft import PeftModel

    from selavpr_peft.evaluation.evaluator import TwoStageResult


def demo(
    data: Annotated[
        str | None, typer.Option(help="Folder with places.csv; without it a synthetic city is drawn.", metavar="DIR")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Hub id or folder of the backbone; without it a tiny random one is used.")
    ] = None,
    adapter: options.Adapter = None,
    database: Annotated[str | None, typer.Option(help="Traverse to index (day_right, or day in the city).")] = None,
    queries: Annotated[str | None, typer.Option(help="Traverse to locate (night_right, or rain).")] = None,
    positive_radius: Annotated[
        float | None,
        typer.Option(
            help="Distance up to which a database image shows the query's place (3, or 0 in the city).", min=0
        ),
    ] = None,
    rerank_num: options.RerankNum = 20,
    output: Annotated[Path, typer.Option(help="Folder for the picture, and for the synthetic city.")] = Path("demo"),
    rounds: Annotated[
        int | None, typer.Option(help="Mining rounds of training in the city (8); 0 does not train.", min=0)
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Index one traverse, locate the images of another, print Recall@1/5/10 and draw a recognised place.

    In the synthetic city an adapter is trained on some of the places, saved and loaded again; the others are located
    before and after. Photographs of your own are located with the adapter you name; `selavpr train` makes one.

    Example:
        selavpr demo --data walk --database day --queries night --backbone facebook/dinov2-small
    """
    picture = output / "recognition.png"
    check_writable(picture)
    quiet_host_libraries()
    from selavpr_peft.data.place_table import read_place_table
    from selavpr_peft.evaluation.evaluator import evaluate_two_stage
    from selavpr_peft.evaluation.protocol import model_protocol
    from selavpr_peft.modeling.preprocessing import Preprocessing
    from selavpr_peft.training import toy_run
    from selavpr_peft.visualization.figures import save_figure
    from selavpr_peft.visualization.recognition import draw_query_result

    is_city = data is None
    rounds = _check_rounds(rounds, is_learning=is_city and backbone is None)
    folder = str(toy_run.draw_toy_city(output / "toy_city")) if data is None else data
    places = _name_places(folder, database, queries, is_city)
    frames = (toy_run.LAST_TRAINED_FRAME + 1, toy_run.NUM_PLACES - 1) if is_city else None
    tables = {role: read_place_table(location, frames=frames) for role, location in places.items()}
    radius = positive_radius if positive_radius is not None else 0.0 if is_city else 3.0
    model = _load_model(backbone, adapter, seed, is_city)
    locate = partial(
        evaluate_two_stage,
        queries=tables["queries"],
        database=tables["database"],
        positive_radius=radius,
        rerank_num=rerank_num,
    )
    result, untrained = locate(model), None
    if rounds:
        model = _train_and_reload(model, Path(folder), output / "adapter", rounds, seed)
        result, untrained = locate(model), result
    protocol = places | {
        "frames": list(frames) if frames else None,
        "positive_radius": radius,
        "rerank_num": rerank_num,
        "adapter": str(output / "adapter") if rounds else adapter,
        "rounds": rounds,
        "seed": seed,
        "dtype": "float32",
        **model_protocol(model, backbone or "a tiny random DINOv2"),
    }
    if json != "-":
        _print(result, untrained, protocol, is_random=backbone is None)
    if json is not None:
        write_json(result.as_report(protocol) | ({"untrained": untrained.as_report({})} if untrained else {}), json)
    preprocessing = Preprocessing.of(model.active_peft_config)
    figure = draw_query_result(model, preprocessing, tables["queries"], tables["database"], result)
    save_figure(figure, picture)
    if json != "-":
        typer.echo(f"\npicture   {picture}")


def _print(
    result: "TwoStageResult", untrained: "TwoStageResult | None", protocol: dict[str, Any], *, is_random: bool
) -> None:
    """Print the recalls, and beside them those before training or, of a random network, what chance would give."""
    print_result(result, protocol)
    if untrained is not None:
        before = both_stages(untrained, protocol["rerank_num"])
        typer.echo(f"\nBefore training, on other places of the city:\n{before}")
    elif is_random:
        chance = sum(len(rows) for rows in result.positives) / max(1, result.num_queries * result.num_database)
        typer.echo(f"\nThe network is random and knows nothing yet: by chance R@1 would be {100 * chance:.1f}.")


def _name_places(folder: str, database: str | None, queries: str | None, is_city: bool) -> dict[str, str]:
    """Name the traverses that are indexed and located, as DIR:TRAVERSE."""
    by_default = ("day", "rain") if is_city else ("day_right", "night_right")
    return {"database": f"{folder}:{database or by_default[0]}", "queries": f"{folder}:{queries or by_default[1]}"}


def _check_rounds(rounds: int | None, *, is_learning: bool) -> int:
    from selavpr_peft.training import toy_run

    if rounds and not is_learning:
        raise ValueError(
            "--rounds is for the tiny network in the synthetic city; others are trained by selavpr train."
        )
    return rounds if rounds is not None else toy_run.NUM_ROUNDS if is_learning else 0


def _train_and_reload(model: "PeftModel", city: Path, folder: Path, rounds: int, seed: int) -> "PeftModel":
    """Train and save the adapter, and load it onto an untouched backbone."""
    from peft import PeftModel

    from selavpr_peft.training import toy_run

    with redirect_stdout(sys.stderr):  # where Trainer reports to
        toy_run.train_on_toy_city(model, city, folder, num_rounds=rounds, seed=seed)
    return PeftModel.from_pretrained(toy_run.toy_model(seed=seed).unload(), folder).eval()


def _load_model(backbone: str | None, adapter: str | None, seed: int, is_city: bool) -> "PeftModel":
    """Load what was named; otherwise adapt a tiny random backbone."""
    from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
    from selavpr_peft.modeling.toy_backbone import toy_backbone
    from selavpr_peft.training import toy_run
    from selavpr_peft.tuner.config import SelaConfig

    if backbone is not None:
        return load_adapted_model(backbone, adapter, seed=seed)
    if adapter is not None:
        raise ValueError("--adapter needs --backbone: the backbone it was trained on.")
    return toy_run.toy_model(seed=seed) if is_city else adapt_freshly(toy_backbone(seed=seed), SelaConfig(), seed=seed)
