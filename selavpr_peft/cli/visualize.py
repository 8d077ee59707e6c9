"""`selavpr visualize`: pictures of what a recognition saw, one action for each kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import help_of, quiet_host_libraries

if TYPE_CHECKING:
    import datasets
    import matplotlib.axes
    from peft import PeftModel

    from selavpr_peft.modeling.preprocessing import Preprocessing
    from selavpr_peft.retrieval import PlaceDatabase, RecognizedPlace

Photograph = Annotated[Path, typer.Argument(help="A photograph.")]
Queries = Annotated[
    str | None,
    typer.Option(metavar="DIR[:TRAVERSE]", help="Places that have the photograph and say where it was taken."),
]
Radius = Annotated[
    float | None,
    typer.Option(help="With --queries: distance in metres or frames up to which a candidate is correct.", min=0),
]
TopK = Annotated[int, typer.Option(help="Candidates drawn.", min=1)]


def candidates(
    database: options.PlaceDatabase,
    image: Photograph,
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    top_k: TopK = 4,
    rerank_num: options.RerankNumOrNone = 100,
    queries: Queries = None,
    positive_radius: Radius = None,
    output: options.Picture = Path("candidates.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    r"""Draw a photograph and its candidates in a place database, framed as correct or wrong where that is known.

    Example:
        selavpr visualize candidates walk.placedb walk/night/0012.jpg --backbone facebook/dinov2-base \
            --adapter my-city --queries walk:night --positive-radius 3
    """
    _check(output, dtype)
    if (queries is None) != (positive_radius is None):
        raise ValueError("--queries and --positive-radius belong together: where the photograph is, and what is near.")
    from selavpr_peft.modeling.preprocessing import read_image
    from selavpr_peft.retrieval import PlaceDatabase
    from selavpr_peft.retrieval.place_recognizer import picture_of
    from selavpr_peft.visualization import draw_candidates

    opened = PlaceDatabase.from_pretrained(database)
    positives = None
    if queries is not None and positive_radius is not None:
        positives = _positives(opened, _table_row(image, queries), positive_radius)
    model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
    places = _recognize(model, opened, image, top_k, rerank_num)
    ax = draw_candidates(
        read_image(image),
        [picture_of(place) for place in places],
        [f"{rank}. {place.key}{_evidence(place)}" for rank, place in enumerate(places, start=1)],
        None if positives is None else [place.row in positives for place in places],
    )
    _save(ax, output, dpi)


def matches(
    first: Photograph,
    second: Annotated[Path, typer.Argument(help="Another photograph.")],
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    max_matches: Annotated[int, typer.Option(help="Draw at most so many, spread over the picture.", min=1)] = 60,
    output: options.Picture = Path("matches.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Draw the mutual nearest neighbours of two photographs' local features, coloured by similarity.

    Example:
        selavpr visualize matches night.jpg day.jpg --backbone facebook/dinov2-base --adapter my-city
    """
    _check(output, dtype)
    from selavpr_peft.modeling.preprocessing import read_image
    from selavpr_peft.retrieval.matched_points import match_pictures
    from selavpr_peft.visualization import draw_matches

    pictures = read_image(first), read_image(second)
    model, preprocessing = _load(backbone, adapter, dtype, device, seed)
    points = match_pictures(model, preprocessing, *pictures)
    if points is None:
        raise ValueError("The adapter has no local head, so there is nothing to match.")
    ax = draw_matches(
        *pictures,
        points.query_points_px,
        points.database_points_px,
        points.similarities,
        max_matches=max_matches,
    )
    _save(ax, output, dpi, f": {len(points.similarities)} matches")


def attention(
    image: Photograph,
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    layer: Annotated[int, typer.Option(help="Block, counted from 0, or from the end if negative.")] = -1,
    output: options.Picture = Path("attention.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Draw where the class token looks in the frozen backbone and in the adapted one, and the change.

    Example:
        selavpr visualize attention photo.jpg --backbone facebook/dinov2-base --adapter my-city
    """
    _check(output, dtype)
    from selavpr_peft.modeling.preprocessing import read_image
    from selavpr_peft.visualization import attention_of_frozen_and_adapted, draw_attention

    picture = read_image(image)
    model, preprocessing = _load(backbone, adapter, dtype, device, seed)
    frozen, adapted = attention_of_frozen_and_adapted(model, preprocessing, picture, layer=layer)
    _save(draw_attention(picture, frozen, adapted), output, dpi)


def descriptor(
    image: Photograph,
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    other: Annotated[
        Path | None, typer.Option(help="Another photograph: draw what makes the two alike.", metavar="IMAGE")
    ] = None,
    output: options.Picture = Path("descriptor.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Draw which parts of a photograph make up its descriptor or, with --other, its similarity with another one.

    Example:
        selavpr visualize descriptor night.jpg --other day.jpg --backbone facebook/dinov2-base --adapter my-city
    """
    _check(output, dtype)
    from selavpr_peft.modeling.preprocessing import read_image
    from selavpr_peft.visualization import descriptor_maps, draw_descriptor, draw_similarity

    pictures = [read_image(path) for path in (image, other) if path is not None]
    model, preprocessing = _load(backbone, adapter, dtype, device, seed)
    shares = descriptor_maps(model, preprocessing, *pictures)
    if other is None:
        _save(draw_descriptor(pictures[0], shares[0]), output, dpi)
    else:
        _save(draw_similarity(pictures, shares), output, dpi, f": cosine similarity {shares[0].sum():.3f}")


def features(
    images: Annotated[list[Path], typer.Argument(help="Photographs; equal colours are equal features in all.")],
    backbone: options.Backbone,
    adapter: options.Adapter = None,
    output: options.Picture = Path("features.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Draw the patch features of photographs as colours, by their three principal components.

    Example:
        selavpr visualize features night.jpg day.jpg --backbone facebook/dinov2-base --adapter my-city
    """
    _check(output, dtype)
    from selavpr_peft.modeling.preprocessing import read_image
    from selavpr_peft.visualization import draw_features, feature_colours, patch_tokens

    pictures = [read_image(path) for path in images]
    model, preprocessing = _load(backbone, adapter, dtype, device, seed)
    colours = feature_colours(list(patch_tokens(model, preprocessing, pictures).numpy()))
    _save(draw_features(pictures, colours), output, dpi)


def recall(
    reports: Annotated[list[Path], typer.Argument(help="Files by `selavpr evaluate --json`.")],
    label: Annotated[
        list[str] | None, typer.Option(help="Name of a report in the legend, in their order; by default its file's.")
    ] = None,
    output: options.Picture = Path("recall.png"),
    dpi: options.DotsPerInch = 150,
) -> None:
    """Draw Recall@N of retrieval and after re-ranking of several evaluations.

    Example:
        selavpr visualize recall untrained.json trained.json --label "no adapter" --label "my city"
    """
    _check_output(output)
    names = label or [path.stem for path in reports]
    if len(names) != len(reports) or len(set(names)) < len(names):
        raise ValueError(f"Each of the {len(reports)} reports needs a --label of its own, got {names}.")
    from selavpr_peft.visualization import draw_recall_curves
    from selavpr_peft.visualization.recall_curves import read_report

    _save(draw_recall_curves(dict(zip(names, map(read_report, reports), strict=True))), output, dpi)


def map_(
    database: options.PlaceDatabase,
    image: Annotated[
        Path | None, typer.Argument(help="A photograph to locate; without it the database alone.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Hub id or folder of the frozen backbone.")] = None,
    adapter: options.Adapter = None,
    top_k: TopK = 5,
    rerank_num: options.RerankNumOrNone = 100,
    queries: Queries = None,
    positive_radius: Radius = None,
    output: options.Picture = Path("map.png"),
    dpi: options.DotsPerInch = 150,
    dtype: options.DType = "float32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    r"""Draw where the places of a database are and, of a photograph, its candidates, its positives and itself.

    The database needs the columns easting_m and northing_m, or latitude and longitude. Nothing is downloaded.

    Example:
        selavpr visualize map city.placedb city/rain/0012.jpg --backbone facebook/dinov2-base --adapter my-city \
            --queries city:rain --positive-radius 25
    """
    _check(output, dtype)
    if (image is None) != (backbone is None):
        raise ValueError("A photograph and --backbone belong together: what to locate, and the model to do it.")
    if image is None and queries is not None:
        raise ValueError("--queries says where the photograph was taken, and none is given.")
    if positive_radius is not None and queries is None:
        raise ValueError("--positive-radius is measured from where the photograph was taken: give --queries.")
    from selavpr_peft.data.schema import DEGREES
    from selavpr_peft.retrieval import PlaceDatabase
    from selavpr_peft.visualization import draw_place_map
    from selavpr_peft.visualization.place_map import coordinate_names, coordinates

    opened = PlaceDatabase.from_pretrained(database)
    names = coordinate_names(opened.places.column_names)
    position = positives = None
    if image is not None and queries is not None:
        query = _table_row(image, queries)
        position = coordinates(query, coordinate_names(query.column_names, [names]))[0]
        if positive_radius is not None:
            positives = _positives(opened, query, positive_radius)
    places = []
    if image is not None and backbone is not None:
        model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
        places = _recognize(model, opened, image, top_k, rerank_num)
    ax = draw_place_map(
        coordinates(opened.places, names),
        is_degrees=names == DEGREES,
        query=position,
        candidates=[place.row for place in places],
        positives=positives,
    )
    _save(ax, output, dpi)


def visualize() -> None:
    r"""Draw what a recognition saw: candidates, matches, attention, descriptors, features, recalls, a map.

    Each action writes one PNG file and has an example in its own --help.

    Example:
        selavpr visualize matches night.jpg day.jpg --backbone facebook/dinov2-base --adapter my-city
    """


app = typer.Typer(help=help_of(visualize), no_args_is_help=True, rich_markup_mode=None)
for _name, _action, _summary in (
    ("candidates", candidates, "A photograph and its candidates in a place database."),
    ("matches", matches, "The mutual nearest neighbours of two photographs."),
    ("attention", attention, "Where the class token looks, without and with the adapter."),
    ("descriptor", descriptor, "What makes up a descriptor, or the similarity of two."),
    ("features", features, "The patch features of photographs as colours."),
    ("recall", recall, "Recall@N of several evaluations."),
    ("map", map_, "The places of a database, and the candidates of a query."),
):
    app.command(name=_name, help=help_of(_action), short_help=_summary)(_action)


def _check(output: Path, dtype: str) -> None:
    """Refuse before anything is loaded what would fail after it."""
    options.check_dtype(dtype)
    _check_output(output)
    quiet_host_libraries()


def _check_output(output: Path) -> None:
    from selavpr_peft.visualization.figures import check_picture_name, new_figure

    check_picture_name(output)
    new_figure(1.0, 1.0)  # says if matplotlib is missing


def _load(backbone: str, adapter: str | None, dtype: str, device: str, seed: int) -> "tuple[PeftModel, Preprocessing]":
    """Load a model, and the preprocessing its adapter was trained with."""
    from selavpr_peft.modeling.preprocessing import Preprocessing

    model = options.load_model(backbone, adapter, dtype=dtype, device=device, seed=seed)
    return model, Preprocessing.of(model.active_peft_config)


def _recognize(
    model: "PeftModel", database: "PlaceDatabase", image: Path, top_k: int, rerank_num: int
) -> "list[RecognizedPlace]":
    from selavpr_peft.retrieval import PlaceRecognizer

    return PlaceRecognizer(model, database).recognize(image, top_k=top_k, rerank_num=rerank_num)


def _table_row(image: Path, queries: str) -> "datasets.Dataset":
    """Read places and take the row of a photograph from them."""
    from selavpr_peft.data.loading import QUERIES, load_located
    from selavpr_peft.data.schema import row_of_picture

    table = load_located(queries, QUERIES)
    return table.select([row_of_picture(table, image)])


def _positives(database: "PlaceDatabase", query: "datasets.Dataset", radius: float) -> list[int]:
    """Find the places near a photograph, given its row of a table."""
    from selavpr_peft.data.positives import positives_within
    from selavpr_peft.data.schema import positions

    (found,) = positives_within(positions(query), positions(database.places), radius)
    rows: list[int] = found.tolist()
    return rows


def _evidence(place: "RecognizedPlace") -> str:
    return f"\nsimilarity {place.score:.3f}" if place.num_matches is None else f"\n{place.num_matches} matches"


def _save(ax: "matplotlib.axes.Axes", output: Path, dpi: int, found: str = "") -> None:
    """Write the figure that some axes are on, and say where and what was found."""
    from selavpr_peft.visualization import save_figure

    figure = ax.get_figure(root=True)
    assert figure is not None
    save_figure(figure, output, dots_per_inch=dpi)
    typer.echo(f"{output}{found}")
