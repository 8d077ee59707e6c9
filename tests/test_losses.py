"""Both losses: recordings of the official ones, plain loops, and what must hold of margins, weights and types."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from selavpr_peft import losses
from selavpr_peft.losses import SelaLoss, mutual_neighbour_loss, mutual_similarities, triplet_loss
from tests.matching import plain_loops

TORCH_EPS = 1e-6  # what torch's triplet loss adds to every component of a difference


def random_units(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_batch(num_queries=3, num_negatives=2, *, side=5, channels=4, seed=0):
    """The six inputs of the loss, without ties."""
    shapes = [(num_queries, 6), (num_queries, 6), (num_queries, num_negatives, 6)]
    grid = (side, side, channels)
    shapes += [(num_queries, *grid), (num_queries, *grid), (num_queries, num_negatives, *grid)]
    return [random_units(*shape, seed=10 * seed + index) for index, shape in enumerate(shapes)]


def mutual_similarity(query, database):
    """Give the similarity of two single maps."""
    return mutual_similarities(query[None], database[None, None])[0, 0]


def plain_distance(first, second):
    return math.sqrt(sum((a - b + TORCH_EPS) ** 2 for a, b in zip(first, second, strict=True)))


def plain_triplet_losses(query, positive, negatives, margin):
    query, positive, negatives = query.tolist(), positive.tolist(), negatives.tolist()
    return [
        [max(0.0, plain_distance(q, p) - plain_distance(q, n) + margin) for n in many]
        for q, p, many in zip(query, positive, negatives, strict=True)
    ]


def plain_similarity(query, database):
    query, database = query.flatten(0, 1).double().tolist(), database.flatten(0, 1).double().tolist()
    similarity = plain_loops.inner_products(query, database)
    pairs = plain_loops.mutual_matches(similarity)
    return sum(similarity[row][column] for row, column in pairs) / len(pairs)


def plain_neighbour_losses(query, positive, negatives, margin):
    return [
        [max(0.0, plain_similarity(q, n) - plain_similarity(q, p) + margin) for n in many]
        for q, p, many in zip(query, positive, negatives, strict=True)
    ]


class LargestTensor(TorchDispatchMode):
    """Note how many elements the largest tensor has that any operation gives."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


@pytest.mark.real
class TestParityWithTheOfficialLosses:
    NAMES = ("query_global", "positive_global", "negative_global", "query_local", "positive_local", "negative_local")

    @pytest.fixture
    def recorded(self, shared):
        return load_file(shared / "parity" / "losses.safetensors")

    @pytest.fixture
    def inputs(self, recorded):
        tensors = {name: recorded[name] for name in self.NAMES}
        for name in ("negative_global", "negative_local"):  # query-major: row b*2+j is negative j of query b
            tensors[name] = tensors[name].unflatten(0, (4, 2))
        return [tensor.clone().requires_grad_() for tensor in tensors.values()]

    def test_both_losses_are_the_official_ones(self, recorded, inputs):
        loss = SelaLoss()(*inputs)
        torch.testing.assert_close(loss.global_loss, recorded["global_loss"][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(loss.local_loss, recorded["local_loss"][0], atol=1e-6, rtol=0)
        assert min(recorded["global_loss"], recorded["local_loss"]) > 1e-3  # equal zeros would prove little

    def test_all_gradients_are_the_official_ones(self, recorded, inputs):
        SelaLoss()(*inputs).loss.backward()
        for name, tensor in zip(self.NAMES, inputs, strict=True):
            expected = recorded[f"grad.{name}"].view_as(tensor)
            torch.testing.assert_close(tensor.grad, expected, atol=1e-6, rtol=0, msg=lambda m, name=name: name + m)
            assert tensor.grad.abs().max() > 1e-4

    def test_similarities_of_queries_and_positives_are_the_official_ones(self, recorded, inputs):
        found = mutual_similarities(inputs[3], inputs[4][:, None])
        torch.testing.assert_close(found[:, 0], recorded["query_positive_similarity"], atol=1e-6, rtol=0)


class TestTripletLoss:
    def test_golden_case(self):
        query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        negative = torch.tensor([[[-1.0, 0.0], [0.6, 0.8]]])
        # |q-p| = sqrt 2 = 1.41421; |q-n| = 2 and sqrt(0.16 + 0.64) = 0.89443; margin 0.1
        expected = torch.tensor([[0.0, 1.41421 - 0.89443 + 0.1]])
        torch.testing.assert_close(triplet_loss(query, positive, negative, 0.1), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("margin", [0.0, 0.1, 0.7])
    def test_plain_loops_find_the_same(self, margin):
        query, positive, negative = (x.double() for x in random_batch(5, 3, seed=1)[:3])
        expected = torch.tensor(plain_triplet_losses(query, positive, negative, margin))
        torch.testing.assert_close(triplet_loss(query, positive, negative, margin), expected, atol=1e-6, rtol=0)


class TestMutualNeighbourLoss:
    def test_golden_case(self):
        # One row of two locations each. With the positive both pairs are mutual, cosines 1 and 0.8: mean 0.9. With the
        # negative (0, -1), (1, 0): query 0 takes location 1 and is taken by it (cosine 1), query 1 takes location 1,
        # too (cosine 0 against -1), but is not taken by it, and location 0 takes query 0: mean 1.
        query = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
        positive = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]]]])
        negative = torch.tensor([[[[[0.0, -1.0], [1.0, 0.0]]]]])
        torch.testing.assert_close(mutual_neighbour_loss(query, positive, negative), torch.tensor([[0.1]]))
        torch.testing.assert_close(mutual_neighbour_loss(query, negative[:, 0], positive[:, None]), torch.zeros(1, 1))

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    def test_plain_loops_find_the_same(self, margin):
        query, positive, negative = random_batch(4, 3, seed=2)[3:]
        expected = torch.tensor(plain_neighbour_losses(query, positive, negative, margin))
        assert (expected > 0).any()
        torch.testing.assert_close(mutual_neighbour_loss(query, positive, negative, margin), expected)

    def test_the_similarity_of_a_query_and_its_positive_is_computed_once(self, monkeypatch):
        pairs = []

        def spy(query, database):
            pairs.append((float(query.sum()), float(database.sum())))
            return original(query, database)

        original = losses.mutual_matches
        monkeypatch.setattr(losses, "mutual_matches", spy)
        query, positive, negative = random_batch(3, 4, seed=3)[3:]
        mutual_neighbour_loss(query, positive, negative)
        assert len(pairs) == len(set(pairs)) == 3 * (1 + 4)
        for q, p in zip(query, positive, strict=True):
            assert pairs.count((float(q.flatten(0, 1).sum()), float(p.flatten(0, 1).sum()))) == 1

    def test_the_full_similarity_matrix_is_never_built_forward_or_backward(self):
        side, channels = 33, 4
        query, positive, negative = (x.requires_grad_() for x in random_batch(1, 1, side=side, channels=channels)[3:])
        with LargestTensor() as largest:
            mutual_neighbour_loss(query, positive, negative, margin=1.0).sum().backward()
        assert query.grad.abs().sum() > 0
        assert side**2 * channels <= largest.num_elements < side**4 / 4

    def test_only_matched_locations_carry_a_gradient(self):
        query, positive, negative = (x.requires_grad_() for x in random_batch(1, 1, seed=4)[3:])
        mutual_neighbour_loss(query, positive, negative, margin=1.0).sum().backward()
        similarity = plain_loops.inner_products(query[0].flatten(0, 1).tolist(), positive[0].flatten(0, 1).tolist())
        matched = {column for _, column in plain_loops.mutual_matches(similarity)}
        carries = positive.grad[0].flatten(0, 1).abs().sum(dim=1).nonzero()[:, 0].tolist()
        assert 0 < len(matched) < 25
        assert set(carries) == matched


class TestMutualSimilarities:
    def test_a_single_mutual_pair_counts_as_it_is(self):
        # Both query locations prefer (0.8, 0.6), which prefers the first: one pair of cosine 0.96.
        query = torch.tensor([[[0.6, 0.8], [1.0, 0.0]]])
        database = torch.tensor([[[0.8, 0.6]]])
        torch.testing.assert_close(mutual_similarity(query, database), torch.tensor(0.96))

    def test_maps_may_differ_in_size(self):
        query, database = random_units(3, 4, 5), random_units(2, 6, 5, seed=1)
        assert float(mutual_similarity(query, database)) == pytest.approx(plain_similarity(query, database), abs=1e-6)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_locations_that_are_not_finite_match_nothing(self, bad):
        query, database = random_units(3, 3, 4), random_units(3, 3, 4, seed=1)
        expected = mutual_similarity(query[:2], database)
        query[2, :, 1] = bad
        torch.testing.assert_close(mutual_similarity(query, database), expected)

    def test_without_a_finite_location_it_is_zero_and_has_no_gradient(self):
        query = torch.full((2, 2, 3), math.nan, requires_grad=True)
        similarity = mutual_similarity(query, random_units(2, 2, 3))
        similarity.backward()
        assert float(similarity.detach()) == 0
        assert not query.grad.any()

    def test_gradients_are_those_of_the_mean_over_matched_pairs(self):
        query, database = random_units(2, 3, 4, 5).double(), random_units(2, 3, 2, 6, 5, seed=1).double()
        found = [tensor.float().requires_grad_() for tensor in (query, database)]
        plain = [tensor.float().requires_grad_() for tensor in (query, database)]
        weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.0, 4.0]])
        (mutual_similarities(*found) * weights).sum().backward()
        for b in range(2):
            for m in range(3):
                first, second = plain[0][b].flatten(0, 1), plain[1][b, m].flatten(0, 1)
                pairs = plain_loops.mutual_matches((first @ second.T).tolist())
                for row, column in pairs:
                    (first[row] @ second[column] * weights[b, m] / len(pairs)).backward(retain_graph=True)
        for mine, theirs in zip(found, plain, strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-5)

    def test_a_batch_with_such_an_image_trains_on_the_others(self):
        batch = [x.requires_grad_() for x in random_batch(2, 1, seed=5)]
        with torch.no_grad():
            batch[3][0] = math.nan
        loss = SelaLoss(local_margin=1.0)(*batch)
        loss.loss.backward()
        assert loss.loss.isfinite()
        assert batch[3].grad.isfinite().all()
        assert not batch[3].grad[0].any()
        assert batch[3].grad[1].any()


class TestSelaLoss:
    def test_the_total_is_the_sum_of_both_parts_over_all_pairs(self):
        batch = random_batch(4, 2, seed=6)
        loss = SelaLoss()(*batch)
        expected_global = torch.tensor(plain_triplet_losses(*batch[:3], 0.1)).mean()
        expected_local = torch.tensor(plain_neighbour_losses(*batch[3:], 0.0)).mean()
        torch.testing.assert_close(loss.global_loss, expected_global, atol=1e-6, rtol=0)
        torch.testing.assert_close(loss.local_loss, expected_local, atol=1e-6, rtol=0)
        torch.testing.assert_close(loss.loss, expected_global + expected_local, atol=2e-6, rtol=0)

    def test_reductions_agree(self):
        batch = random_batch(4, 3, seed=7)
        values = SelaLoss(reduction="none")(*batch)
        assert values.loss.shape == values.global_loss.shape == values.local_loss.shape == (4, 3)
        total, mean = SelaLoss(reduction="sum")(*batch), SelaLoss(reduction="mean")(*batch)
        for part in ("loss", "global_loss", "local_loss"):
            torch.testing.assert_close(getattr(total, part), getattr(values, part).sum())
            torch.testing.assert_close(getattr(mean, part), getattr(total, part) / 12)

    def test_the_local_loss_is_weighed(self):
        batch = random_batch(seed=8)
        plain, weighed = SelaLoss()(*batch), SelaLoss(local_weight=2.5)(*batch)
        assert plain.local_loss > 0
        torch.testing.assert_close(weighed.loss, plain.global_loss + 2.5 * plain.local_loss)
        torch.testing.assert_close(weighed.local_loss, plain.local_loss)

    def test_margins_belong_to_their_own_part(self):
        batch = random_batch(seed=9)
        found = SelaLoss(global_margin=2.0, local_margin=2.0, reduction="none")(*batch)  # no pair is clamped
        bare = SelaLoss(global_margin=3.0, local_margin=2.5, reduction="none")(*batch)
        torch.testing.assert_close(bare.global_loss - found.global_loss, torch.ones(3, 2))
        torch.testing.assert_close(bare.local_loss - found.local_loss, torch.full((3, 2), 0.5))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_without_local_features_the_global_loss_is_all(self, reduction):
        batch = random_batch(seed=10)
        loss = SelaLoss(reduction=reduction)(*batch[:3])
        assert torch.equal(loss.loss, loss.global_loss)
        assert torch.equal(loss.loss, SelaLoss(reduction=reduction)(*batch).global_loss)
        assert not loss.local_loss.any()
        assert loss.local_loss.shape == loss.global_loss.shape

    def test_under_autocast_losses_and_matches_are_those_of_float32(self):
        batch = random_batch(4, 2, side=9, seed=11)
        expected = SelaLoss(local_margin=0.5)(*batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (batch[0] @ batch[1].T).dtype is torch.bfloat16
            found = SelaLoss(local_margin=0.5)(*batch)
        assert torch.equal(found.loss, expected.loss)
        assert torch.equal(found.local_loss, expected.local_loss)

    def test_bfloat16_features_are_compared_in_float32(self):
        batch = [x.bfloat16() for x in random_batch(seed=12)]
        expected = SelaLoss()(*(x.float() for x in batch))
        assert torch.equal(SelaLoss()(*batch).loss, expected.loss)
        assert SelaLoss()(*batch).loss.dtype is torch.float32

    @pytest.mark.parametrize(
        "settings",
        [
            {"reduction": "median"},
            {"global_margin": -0.1},
            {"local_margin": math.nan},
            {"local_weight": math.inf},
        ],
    )
    def test_bad_settings_are_named(self, settings):
        (name, value), *_ = settings.items()
        with pytest.raises(ValueError, match=rf"{name} must be .* got {value!r}"):
            SelaLoss(**settings)

    def test_some_local_features_without_the_others_are_an_error(self):
        batch = random_batch()
        with pytest.raises(ValueError, match="together, or none"):
            SelaLoss()(*batch[:5])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (
                lambda batch: batch[2].flatten(0, 1),
                r"The descriptors .* got \(3, 6\), \(3, 6\), \(6, 6\); .* unflatten",
            ),
            (lambda batch: batch[2][:, :0], r"at least one query and one negative, got .*\(3, 0, 6\)"),
            (lambda batch: batch[2][:2], r"got \(3, 6\), \(3, 6\), \(2, 2, 6\)"),
        ],
    )
    def test_negatives_that_are_not_the_queries_own_are_refused(self, wrong, message):
        batch = random_batch(3, 2)
        with pytest.raises(ValueError, match=message):
            unchecked_loss(batch[0], batch[1], wrong(batch))

    def test_local_features_of_other_queries_are_refused(self):
        batch = random_batch(3, 2)
        with pytest.raises(ValueError, match=r"must be of the \(3, 2\) queries and negatives .* got \(2, 2\)"):
            unchecked_loss(*batch[:3], *(features[:2] for features in batch[3:]))


def unchecked_loss(*batch):
    """Compute the loss without the shape checker, which, where on, comes before the loss's own errors."""
    return getattr(SelaLoss.forward, "__wrapped__", SelaLoss.forward)(SelaLoss(), *batch)
