"""The answers of the server, as JSON."""

from pydantic import BaseModel

from selavpr_peft.retrieval.matched_points import MatchedPoints


class DatabaseAnswer(BaseModel):
    """What is searched.

    Args:
        name: Name of the database, without its folder.
        version: Changes when places are added or removed.
        num_places: Number of places.
        adapter: Digest of the adapter that described them.
        unit: Unit of the map, "m" or "frames".
        points: Points of the map; of a large database a part.
        can_match: Whether matches can be shown.
        calibrated_rerank_num: Candidates re-ranked for which the first place has a probability; None if none has.
        max_upload_bytes: Largest photograph that is taken.
    """

    name: str
    version: str
    num_places: int
    adapter: str
    unit: str
    points: list[tuple[float, float]]
    can_match: bool
    calibrated_rerank_num: int | None
    max_upload_bytes: int


class PlaceAnswer(BaseModel):
    """A place the photograph may show.

    Args:
        key: Its name.
        score: Cosine similarity of the global descriptors.
        num_matches: Mutual nearest neighbours of local features; None where it was not re-ranked.
        probability: Estimate that it is the place of the photograph; only of the first, where a calibration holds.
        coordinates: Its position as the database has it.
        point: Its point on the map, x and y.
        thumbnail: Address of a small picture, relative to the page.
        picture: Address of a large one.
    """

    key: str
    score: float
    num_matches: int | None
    probability: float | None
    coordinates: dict[str, float | int]
    point: tuple[float, float] | None
    thumbnail: str | None
    picture: str | None


class RecognitionAnswer(BaseModel):
    """Where a photograph was taken.

    Args:
        places: Places, best first.
        version: That of the database in which they were found; where it is new, the points of the map are new, too.
        duration_s: Time the model and the search took.
    """

    places: list[PlaceAnswer]
    version: str
    duration_s: float


class MatchAnswer(BaseModel):
    """A mutual nearest neighbour.

    Args:
        query: x and y in the photograph, upright, in pixels.
        database: x and y in the database image, in pixels.
        similarity: Cosine similarity of the two local features.
    """

    query: tuple[float, float]
    database: tuple[float, float]
    similarity: float


class MatchesAnswer(BaseModel):
    """The matches of a photograph and a place.

    Args:
        key: The place.
        query_size: Width and height of the photograph, in pixels.
        database_size: Width and height of the database image, in pixels.
        matches: The most similar first.
    """

    key: str
    query_size: tuple[int, int]
    database_size: tuple[int, int]
    matches: list[MatchAnswer]


def describe_matches(points: MatchedPoints) -> list[MatchAnswer]:
    """Put matches in the order of their similarity.

    Args:
        points: Matched points.
    """
    order = (-points.similarities).argsort(kind="stable")
    columns = (points.query_points_px, points.database_points_px, points.similarities)
    return [
        MatchAnswer(query=query, database=database, similarity=similarity)
        for query, database, similarity in zip(*(column[order].tolist() for column in columns), strict=True)
    ]
