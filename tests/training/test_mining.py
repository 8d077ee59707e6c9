"""Choosing triplets: every mode against plain loops, and what must hold of pools, weights and small data."""

import numpy as np
import pytest

from selavpr_peft.training.mining import (
    MODES,
    MiningSettings,
    NegativeCache,
    check_minable,
    choose_triplets,
    plan_round,
    round_size,
)
from selavpr_peft.training.places import training_places
from tests.training import plain_loops
from tests.training.tables import line, splits


def city(num_places=12, *, seed=0):
    """Places 4 m apart, a query and a database image at each; positives within 4 m, negatives beyond 9 m."""
    offsets = np.random.default_rng(seed).permutation(num_places) * 4.0
    queries, database = line(offsets, "q"), line(np.arange(num_places) * 4.0, "d")
    possible_positives = [plain_loops.positives(query, database, 4) for query in queries]
    possible_negatives = [plain_loops.negatives(query, database, 9) for query in queries]
    places = training_places(splits(queries, database), positive_radius=4, negative_radius=9)
    return places, possible_positives, possible_negatives


def similarities(num_queries, num_database, *, seed=0):
    """A table of similarities with ties, and the function that mining asks."""
    table = np.random.default_rng(seed).integers(0, 7, (num_queries, num_database)) / 8
    return table, lambda query, rows: table[query, rows]


def mine(places, settings, similarity, generator, cache=None):
    plan = plan_round(places, settings, generator)
    cache = NegativeCache() if cache is None else cache
    return choose_triplets(plan, places, settings, similarity, generator, cache).tolist()


def sizes_of(settings):
    return settings.queries_per_round, settings.num_negatives, settings.negative_pool


class TestAgainstPlainLoops:
    SIZES = (
        {"queries_per_round": 5, "num_negatives": 2, "negative_pool": 6},
        {"queries_per_round": 12, "num_negatives": 3, "negative_pool": 12},
        {"queries_per_round": 7, "num_negatives": 4, "negative_pool": 1},  # the pool alone is too small
        {"queries_per_round": 99, "num_negatives": 1, "negative_pool": 99},  # more than there is
    )

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    @pytest.mark.parametrize("mode", MODES)
    def test_three_rounds_of_every_mode_are_those_of_plain_loops(self, mode, sizes):
        for seed in range(3):
            places, positives, negatives = city(seed=seed)
            weights = np.arange(12.0) if mode == "weighted" else None
            settings = MiningSettings(mode=mode, query_weights=weights, **sizes)
            cache, plain_cache = NegativeCache(), {}
            for number in range(3):  # mode "full" remembers negatives
                table, similarity = similarities(12, 12, seed=10 * seed + number)
                generators = [np.random.default_rng([seed, number]) for _ in range(2)]
                expected = plain_loops.mine(
                    mode,
                    positives,
                    negatives,
                    table.tolist(),
                    generators[0],
                    sizes=sizes_of(settings),
                    weights=None if weights is None else weights.tolist(),
                    cache=plain_cache,
                )
                assert mine(places, settings, similarity, generators[1], cache) == expected

    @pytest.mark.parametrize("mode", ["partial", "full", "random"])
    def test_unreadable_images_are_never_chosen_by_similarity_and_their_queries_are_left_out(self, mode):
        places, positives, negatives = city()
        table, similarity = similarities(12, 12)
        table[3] = np.nan  # this query cannot be read
        table[:, 5] = np.nan  # nor can this database image
        settings = MiningSettings(mode=mode, queries_per_round=12, negative_pool=12)
        expected = plain_loops.mine(
            mode,
            positives,
            negatives,
            table.tolist(),
            np.random.default_rng(1),
            sizes=sizes_of(settings),
            cache={},
        )
        found = mine(places, settings, similarity, np.random.default_rng(1))
        assert found == expected
        assert 3 not in {triplet[0] for triplet in found}
        assert len(found) == 11
        assert all(triplet[1] != 5 for triplet in found)


class TestChooseTriplets:
    def test_golden_case(self):
        # Query 0 at 0 m, database at 0, 4, 8, ... 44 m: positives 0 and 1 (<= 4 m), negatives from row 3 on (> 9 m).
        places, *_ = city()
        query = places.queries["easting_m"][:].index(0.0)
        table = np.zeros((12, 12))
        table[query] = [0.5, 0.7, 0.9, 0.1, 0.8, 0.2, 0.3, 0.6, 0.0, 0.0, 0.0, 0.0]
        settings = MiningSettings(queries_per_round=12, negative_pool=12, num_negatives=2)
        found = mine(places, settings, lambda q, rows: table[q, rows], np.random.default_rng(0))
        assert [query, 1, 4, 7] in found  # the more similar positive, and the two most similar negatives

    def test_full_mining_carries_the_hardest_negatives_to_the_next_round(self):
        places, *_ = city()
        table, similarity = similarities(12, 12)
        cache = NegativeCache({query: np.array([], dtype=np.int64) for query in range(12)})
        settings = MiningSettings(mode="full", queries_per_round=12, negative_pool=3, num_negatives=1)
        hardest_so_far = np.full(12, -np.inf)
        for number in range(4):
            for query, _, negative in mine(places, settings, similarity, np.random.default_rng(number), cache):
                assert table[query, negative] >= hardest_so_far[query]
                hardest_so_far[query] = table[query, negative]
        assert (hardest_so_far >= 0).all()

    def test_partial_mining_keeps_no_cache(self):
        places, *_ = city()
        cache = NegativeCache()
        mine(places, MiningSettings(negative_pool=5), similarities(12, 12)[1], np.random.default_rng(0), cache)
        assert not cache.rows

    def test_nothing_readable_gives_no_triplet(self):
        places, *_ = city()
        settings = MiningSettings(queries_per_round=4)
        generator = np.random.default_rng(0)
        plan = plan_round(places, settings, generator)
        nothing = np.full((12, 12), np.nan)
        found = choose_triplets(
            plan, places, settings, lambda query, rows: nothing[query, rows], generator, NegativeCache()
        )
        assert found.shape == (0, 4)


class TestPlanRound:
    def test_needed_are_the_pool_and_the_positives_of_the_queries_and_nothing_else(self):
        places, positives, _ = city()
        plan = plan_round(places, MiningSettings(queries_per_round=2, negative_pool=3), np.random.default_rng(0))
        expected = {*plan.pool.tolist(), *(row for query in plan.queries for row in positives[query])}
        assert plan.database_rows.tolist() == sorted(expected)
        assert len(plan.pool) == 3

    def test_full_mining_needs_the_whole_database(self):
        plan = plan_round(city()[0], MiningSettings(mode="full", queries_per_round=1), np.random.default_rng(0))
        assert plan.database_rows.tolist() == list(range(12))

    def test_random_mining_needs_only_the_positives(self):
        places, positives, _ = city()
        plan = plan_round(places, MiningSettings(mode="random", queries_per_round=1), np.random.default_rng(0))
        assert plan.database_rows.tolist() == positives[plan.queries[0]]

    def test_round_and_pool_are_clamped_to_the_data(self):
        places, *_ = city()
        settings = MiningSettings(queries_per_round=1000, negative_pool=1000)
        plan = plan_round(places, settings, np.random.default_rng(0))
        assert round_size(places, settings) == 12
        assert sorted(plan.queries.tolist()) == list(range(12))
        assert plan.pool.tolist() == list(range(12))

    def test_a_query_is_drawn_once_per_round(self):
        plan = plan_round(city()[0], MiningSettings(queries_per_round=11), np.random.default_rng(0))
        assert len(set(plan.queries.tolist())) == 11


class TestWeightedQueries:
    def test_draws_follow_the_weights(self):
        places, *_ = city()
        weights = np.zeros(12)
        weights[[2, 5, 7]] = [1, 2, 5]
        settings = MiningSettings(mode="weighted", queries_per_round=1, negative_pool=1, query_weights=weights)
        generator = np.random.default_rng(0)
        drawn = np.bincount([plan_round(places, settings, generator).queries[0] for _ in range(2000)], minlength=12)
        # A share of 5/8 has a standard error of 0.011 over 2000 draws.
        np.testing.assert_allclose(drawn / 2000, weights / 8, atol=0.04)
        assert not drawn[weights == 0].any()

    def test_queries_of_weight_zero_make_a_round_shorter_and_are_never_drawn(self):
        places, *_ = city()
        weights = np.array([1.0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        settings = MiningSettings(mode="weighted", query_weights=weights)
        assert round_size(places, settings) == 3
        for seed in range(5):
            assert sorted(plan_round(places, settings, np.random.default_rng(seed)).queries.tolist()) == [0, 2, 5]


class TestCheckMinable:
    def test_enough_negatives_pass(self):
        check_minable(city()[0], MiningSettings(num_negatives=7))

    def test_too_few_negatives_are_named_with_the_query(self):
        # In the middle of 12 places 4 m apart, 5 lie within 9 m.
        with pytest.raises(ValueError, match=r"8 negatives per query were asked for, but query row \d+ has 7 beyond"):
            check_minable(city()[0], MiningSettings(num_negatives=8))

    def test_images_of_its_own_traverse_do_not_count(self):
        database = [*line([0, 100, 200], "a", traverse="day"), *line([1, 101], "b", traverse="night")]
        places = training_places(
            splits(line([0], "q", traverse="day"), database), positive_radius=10, negative_radius=25
        )
        check_minable(places, MiningSettings(num_negatives=1))
        with pytest.raises(ValueError, match="has 1 beyond the negative radius among 5"):
            check_minable(places, MiningSettings(num_negatives=2))

    @pytest.mark.parametrize(
        "weights",
        [np.ones(11), np.zeros(12), np.full(12, -1.0), np.full(12, np.nan), np.full(12, np.inf)],
        ids=["too few", "all zero", "negative", "NaN", "infinite"],
    )
    def test_weights_that_do_not_fit_are_an_error(self, weights):
        with pytest.raises(ValueError, match="query_weights must be 12 finite numbers"):
            check_minable(city()[0], MiningSettings(mode="weighted", query_weights=weights))


class TestMiningSettings:
    @pytest.mark.parametrize("name", ["queries_per_round", "num_negatives", "negative_pool"])
    def test_numbers_below_one_are_named(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            MiningSettings(**{name: 0})

    def test_an_unknown_mode_is_named_with_the_choices(self):
        with pytest.raises(ValueError, match=r"'partial', 'full', 'random', 'weighted', got 'hardest'"):
            MiningSettings(mode="hardest")

    def test_weights_and_the_weighted_mode_go_together(self):
        with pytest.raises(ValueError, match="needs query_weights"):
            MiningSettings(mode="weighted")
        with pytest.raises(ValueError, match="no other mode takes them"):
            MiningSettings(mode="full", query_weights=np.ones(3))
