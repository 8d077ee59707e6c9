"""What may be a positive or a negative, and every mining mode, as plain loops over plain numbers.

Places are dictionaries with `position` (a tuple), `picture` and `traverse` (None where there is none). Random numbers
are drawn as the package draws them: the queries of a round, its pool, and then query by query.
"""


def squared_distance(first, second):
    return sum((a - b) ** 2 for a, b in zip(first["position"], second["position"], strict=True))


def same_traverse(first, second):
    return first["traverse"] is not None and first["traverse"] == second["traverse"]


def positives(query, database, radius):
    return [
        row
        for row, place in enumerate(database)
        if squared_distance(query, place) <= radius**2
        and place["picture"] != query["picture"]
        and not same_traverse(query, place)
    ]


def negatives(query, database, radius):
    return [
        row
        for row, place in enumerate(database)
        if squared_distance(query, place) > radius**2 and not same_traverse(query, place)
    ]


def best_first(rows, similarity):
    """Rows by falling similarity; of equals the smaller row first; rows without a similarity left out."""
    known = [row for row in rows if similarity[row] == similarity[row]]
    return sorted(known, key=lambda row: (-similarity[row], row))


def mine(mode, possible_positives, possible_negatives, similarity, generator, *, sizes, weights=None, cache=None):
    """Mine one round; lists are indexed by query, `similarity` by query and database row.

    Returns:
        A list [query, positive, negatives...] per triplet, in the order drawn.
    """
    num_queries, num_database = len(similarity), len(similarity[0])
    per_round, num_negatives, pool_size = sizes
    drawable = num_queries if weights is None else sum(weight > 0 for weight in weights)
    share = None if weights is None else [weight / sum(weights) for weight in weights]
    queries = generator.choice(num_queries, min(per_round, drawable), replace=False, p=share).tolist()
    pool = None
    if mode in ("partial", "weighted"):
        pool = generator.choice(num_database, min(pool_size, num_database), replace=False).tolist()
    triplets = []
    for query in queries:
        ranked = best_first(possible_positives[query], similarity[query])
        chosen = _negatives(
            mode, query, pool, possible_negatives[query], similarity[query], generator, num_negatives, pool_size, cache
        )
        if ranked and len(chosen) == num_negatives:
            triplets.append([query, ranked[0], *chosen])
    return triplets


def _negatives(mode, query, pool, possible, similarity, generator, number, pool_size, cache):
    if mode == "random":
        return generator.choice(possible, min(number, len(possible)), replace=False).tolist()
    if mode == "full":
        num_database = len(similarity)
        pool = generator.choice(num_database, min(pool_size, num_database), replace=False).tolist()
        pool = sorted({*pool, *cache.get(query, [])})
    hardest = best_first([row for row in pool if row in possible], similarity)[:number]
    if mode == "full":
        cache[query] = hardest
    if len(hardest) < number:
        others = [row for row in possible if row not in hardest]
        hardest = hardest + generator.choice(others, min(number - len(hardest), len(others)), replace=False).tolist()
    return hardest
