"""Mine triplets: for some queries the best positive and the hardest negatives (SelaVPR, section 4.1; datasets_ws.py).

A mining round is planned, the images it needs are described, and the triplets are chosen; planning and choosing are
plain functions of arrays, describing is somebody else's. All randomness comes from the generator that is passed.

| mode | queries of a round | negatives of a query |
|---|---|---|
| partial | random | hardest of one random pool, the same for all queries |
| weighted | random by weight | as partial |
| full | random | hardest of a random pool of its own and of its last negatives |
| random | random | random |

Unlike the official code, queries without a positive are left out together with their lists of near images (there, true
positives can become negatives), and only global descriptors are made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from selavpr_peft.data.schema import KEY
from selavpr_peft.training.places import TrainingPlaces

MODES = ("partial", "full", "random", "weighted")


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How triplets are mined.

    Args:
        mode: One of MODES.
        queries_per_round: Queries a round takes; all of them if there are fewer (official cache_refresh_rate).
        num_negatives: Negatives of every query (official negs_num_per_query).
        negative_pool: Random database images negatives are chosen from (official neg_samples_num).
        query_weights: For mode "weighted": how often each query is wanted, relative to the others.
    """

    mode: str = "partial"
    queries_per_round: int = 1000
    num_negatives: int = 2
    negative_pool: int = 1000
    query_weights: Float[np.ndarray, " Q"] | None = None

    def __post_init__(self) -> None:
        """Check mode and numbers."""
        if self.mode not in MODES:
            raise ValueError(f"mining must be one of {', '.join(map(repr, MODES))}, got {self.mode!r}.")
        for name in ("queries_per_round", "num_negatives", "negative_pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if (self.mode == "weighted") != (self.query_weights is not None):
            raise ValueError("mining='weighted' needs query_weights, and no other mode takes them.")


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """What a round is going to look at.

    Args:
        queries: Numbers of its queries, in the order they are trained.
        pool: Database rows negatives are taken from.
        database_rows: Database rows whose descriptors are needed, ascending.
    """

    queries: Int[np.ndarray, " Q"]
    pool: Int[np.ndarray, " P"]
    database_rows: Int[np.ndarray, " R"]


@dataclass
class NegativeCache:
    """The last hardest negatives of every query, which mode "full" carries from round to round."""

    rows: dict[int, np.ndarray] = field(default_factory=dict)


Similarity = Callable[[int, Int[np.ndarray, " R"]], Float[np.ndarray, " R"]]
"""Gives the similarity of a query with database rows; NaN for an image that could not be read."""


def round_size(places: TrainingPlaces, settings: MiningSettings) -> int:
    """Number of queries of a round, bounded by those that can be drawn.

    Args:
        places: Training places.
        settings: How triplets are mined.
    """
    weights = settings.query_weights
    num_drawable = len(places.queries) if weights is None else int(np.count_nonzero(weights))
    return min(settings.queries_per_round, num_drawable)


def check_minable(places: TrainingPlaces, settings: MiningSettings) -> None:
    """Raise unless every query has as many possible negatives as are asked for.

    Args:
        places: Training places.
        settings: How triplets are mined.

    Raises:
        ValueError: If there are too few, or the weights do not fit the queries.
    """
    found = places.num_possible_negatives()
    query = int(found.argmin())
    if found[query] < settings.num_negatives:
        raise ValueError(
            f"{settings.num_negatives} negatives per query were asked for, but query"
            f" {places.queries[KEY][query]} has {found[query]} beyond the negative radius among"
            f" {len(places.database)} database images; add images or lower the radius."
        )
    weights = settings.query_weights
    if weights is not None:
        is_valid = len(weights) == len(places.queries) and np.isfinite(weights).all() and (weights >= 0).all()
        if not is_valid or not weights.any():
            raise ValueError(
                f"query_weights must be {len(places.queries)} finite numbers of at least 0, not all of them 0."
            )


def plan_round(places: TrainingPlaces, settings: MiningSettings, generator: np.random.Generator) -> RoundPlan:
    """Draw the queries of a round and the pool of possible negatives.

    Args:
        places: Training places.
        settings: How triplets are mined; numbers larger than the data are cut to it.
        generator: Source of randomness.
    """
    weights = settings.query_weights
    probabilities = None if weights is None else weights / weights.sum()
    queries = generator.choice(len(places.queries), round_size(places, settings), replace=False, p=probabilities)
    everything = np.arange(len(places.database))
    if settings.mode == "full":
        pool = everything
    elif settings.mode == "random":
        pool = np.empty(0, dtype=np.int64)
    else:
        pool = np.sort(generator.choice(everything, min(settings.negative_pool, len(everything)), replace=False))
    needed = np.unique(np.concatenate([pool, *(places.positives[query] for query in queries)]))
    return RoundPlan(queries=queries, pool=pool, database_rows=needed)


def choose_triplets(
    plan: RoundPlan,
    places: TrainingPlaces,
    settings: MiningSettings,
    similarity: Similarity,
    generator: np.random.Generator,
    cache: NegativeCache,
) -> Int[np.ndarray, "T columns"]:
    """Choose the best positive and the negatives of every query of a round.

    Args:
        plan: What was drawn.
        places: Training places.
        settings: How triplets are mined.
        similarity: Similarity of descriptors.
        generator: Source of randomness.
        cache: Last negatives, for mode "full"; updated.

    Returns:
        A row per query in the order of the plan: query, positive and negatives, as rows of their tables. Queries of
        which no picture, or of whose positives none, could be read are missing.
    """
    triplets = []
    for query in plan.queries.tolist():
        positives = _by_similarity(places.positives[query], similarity(query, places.positives[query]))
        negatives = _negatives(query, plan, places, settings, similarity, generator, cache)
        if len(positives) and len(negatives) == settings.num_negatives:
            triplets.append([query, positives[0], *negatives])
    return np.array(triplets, dtype=np.int64).reshape(-1, 2 + settings.num_negatives)


def _negatives(
    query: int,
    plan: RoundPlan,
    places: TrainingPlaces,
    settings: MiningSettings,
    similarity: Similarity,
    generator: np.random.Generator,
    cache: NegativeCache,
) -> np.ndarray:
    if settings.mode == "random":
        return _random_negatives(query, settings.num_negatives, places, generator)
    pool = plan.pool
    if settings.mode == "full":
        pool = generator.choice(pool, min(settings.negative_pool, len(pool)), replace=False)
        pool = np.union1d(pool, cache.rows.get(query, pool[:0]))
    candidates = places.negatives_among(query, pool)
    hardest = _by_similarity(candidates, similarity(query, candidates))[: settings.num_negatives]
    if settings.mode == "full":
        cache.rows[query] = hardest
    if len(hardest) < settings.num_negatives:  # a small pool may hold too few: the rest is drawn from all images
        others = _random_negatives(query, settings.num_negatives - len(hardest), places, generator, without=hardest)
        hardest = np.concatenate([hardest, others])
    return hardest


def _random_negatives(
    query: int,
    number: int,
    places: TrainingPlaces,
    generator: np.random.Generator,
    without: np.ndarray | None = None,
) -> np.ndarray:
    possible = places.negatives_among(query, np.arange(len(places.database)))
    if without is not None:
        possible = np.setdiff1d(possible, without)
    return generator.choice(possible, min(number, len(possible)), replace=False)


def _by_similarity(rows: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Order rows by descending similarity, equal ones ascending; rows without a similarity are dropped."""
    is_known = ~np.isnan(similarities)
    rows, similarities = rows[is_known], similarities[is_known]
    return rows[np.argsort(-similarities, kind="stable")]
