"""`selavpr demo`: the whole way from images to recognised places, on a synthetic city or on your photographs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.evaluate import print_result
from selavpr_peft.cli.printing import quiet_host_libraries, write_json

if TYPE_CHECKING:
    from peft import PeftModel

TOY_IMAGE_SIZE = (112, 154)
TOY_PLACES = 40
TOY_TRAVERSES = ("day", "rain")  # by night a random network finds nothing


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
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Index one traverse, locate the images of another, print Recall@1/5/10 and draw a recognised place.

    Example:
        selavpr demo --data walk --database day --queries night --backbone facebook/dinov2-small
    """
    quiet_host_libraries()
    from selavpr_peft.data.place_table import read_place_table
    from selavpr_peft.evaluation.evaluator import evaluate_two_stage
    from selavpr_peft.modeling.preprocessing import Preprocessing
    from selavpr_peft.visualization.matches import save_figure
    from selavpr_peft.visualization.recognition import draw_query_result

    is_toy = data is None
    folder = _draw_toy_city(output) if data is None else data
    places = {
        "database": f"{folder}:{database or (TOY_TRAVERSES[0] if is_toy else 'day_right')}",
        "queries": f"{folder}:{queries or (TOY_TRAVERSES[1] if is_toy else 'night_right')}",
    }
    tables = {role: read_place_table(location) for role, location in places.items()}
    radius = positive_radius if positive_radius is not None else 0.0 if is_toy else 3.0
    model = _load_model(backbone, adapter, seed, is_toy)
    config = model.active_peft_config
    preprocessing = Preprocessing(image_size=config.image_size, resize=config.resize)
    result = evaluate_two_stage(
        model,
        tables["queries"],
        tables["database"],
        preprocessing,
        positive_radius=radius,
        rerank_num=rerank_num,
    )
    protocol = places | {
        "positive_radius": radius,
        "rerank_num": rerank_num,
        "backbone": backbone or "a tiny random DINOv2",
        "adapter": adapter,
        "seed": seed,
        "dtype": "float32",
        "image_size": list(config.image_size),
        "resize": config.resize,
        "position_interpolation": config.position_interpolation,
    }
    if json != "-":
        print_result(result, protocol)
        if backbone is None:
            chance = sum(len(rows) for rows in result.positives) / max(1, result.num_queries * result.num_database)
            typer.echo(f"\nThe network is random and knows nothing yet: by chance R@1 would be {100 * chance:.1f}.")
    if json is not None:
        write_json(result.as_report(protocol), json)
    figure = draw_query_result(model, preprocessing, tables["queries"], tables["database"], result)
    save_figure(figure, output / "recognition.png")
    if json != "-":
        typer.echo(f"\npicture   {output / 'recognition.png'}")


def _draw_toy_city(output: Path) -> str:
    from selavpr_peft.data.toy_city import write_toy_city

    return str(write_toy_city(output / "toy_city", num_places=TOY_PLACES, traverses=TOY_TRAVERSES))


def _load_model(backbone: str | None, adapter: str | None, seed: int, is_toy: bool) -> "PeftModel":
    """Load what was named; otherwise adapt a tiny random backbone."""
    from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model
    from selavpr_peft.modeling.toy_backbone import toy_backbone
    from selavpr_peft.tuner.config import SelaConfig

    if backbone is not None:
        return load_adapted_model(backbone, adapter, seed=seed)
    if adapter is not None:
        raise ValueError("--adapter needs --backbone: the backbone it was trained on.")
    config = SelaConfig(image_size=TOY_IMAGE_SIZE) if is_toy else SelaConfig()
    return adapt_freshly(toy_backbone(seed=seed), config, seed=seed)
