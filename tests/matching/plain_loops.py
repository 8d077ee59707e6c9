"""Mutual nearest neighbours as plain loops over plain numbers: what the package's tiles are compared with."""


def first_argmax(values):
    best = 0
    for position, value in enumerate(values):
        if value > values[best]:
            best = position
    return best


def mutual_matches(similarity):
    """List [row, column] of every pair that is each other's most similar one, of a table given as rows."""
    forward = [first_argmax(row) for row in similarity]
    backward = [first_argmax(column) for column in zip(*similarity, strict=True)]
    return [[row, column] for row, column in enumerate(forward) if backward[column] == row]


def inner_products(query, candidate):
    return [[sum(a * b for a, b in zip(q, c, strict=True)) for c in candidate] for q in query]


def negative_hamming_distances(query_bits, candidate_bits):
    return [[-sum(a != b for a, b in zip(q, c, strict=True)) for c in candidate_bits] for q in query_bits]
