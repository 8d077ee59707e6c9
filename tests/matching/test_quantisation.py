"""Smaller forms of local features: what is in them, and that they are compared as what they are."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selavpr_peft.matching import (
    LOCAL_DTYPES,
    count_mutual_matches,
    fastest_local_dtype,
    mutual_matches,
    quantisation,
    quantize_local_features,
    query_dtype,
)
from selavpr_peft.matching.packing import as_vectors


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class TestQuantizeLocalFeatures:
    def test_golden_case_int8(self):
        # one step is 0.5 / 127; 0.25 is 63.5 steps and rounds to the even 64
        features = torch.tensor([[0.5, -0.5, 0.25, 0.0, 0.9, -0.9]])
        assert quantize_local_features(features, "int8").tolist() == [[127, -127, 64, 0, 127, -127]]

    def test_golden_case_binary(self):
        features = torch.tensor([[0.1, -0.1, 0.0, 0.2, -0.3, 0.4, -0.5, 0.6]])
        assert quantize_local_features(features, "binary").tolist() == [[0b10010101]]

    def test_bits_are_packed_as_numpy_packs_them(self):
        features = random_map(3, 4, 5, 24)
        expected = np.packbits(features.numpy() > 0, axis=-1)
        assert np.array_equal(quantize_local_features(features, "binary").numpy(), expected)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("dtype", ["int8", "binary"])
    def test_whole_numbers_do_not_hide_what_is_none(self, dtype, value):
        features = random_map(2, 3, 8)
        features[1, 2, 5] = value
        with pytest.raises(ValueError, match=f"hold NaN or infinity, which {dtype} cannot express"):
            quantize_local_features(features, dtype)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_float_forms_are_the_rounded_features(self, dtype):
        features = random_map(2, 3, 8)
        assert torch.equal(quantize_local_features(features, dtype), features.to(getattr(torch, dtype)))

    @pytest.mark.parametrize("dtype", LOCAL_DTYPES)
    def test_every_form_takes_the_bytes_that_are_promised(self, dtype):
        form = quantize_local_features(random_map(5, 7, 16), dtype)
        per_channel = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "binary": 1 / 8}[dtype]
        assert form.numel() * form.element_size() == 5 * 7 * 16 * per_channel
        assert form.shape[:-1] == (5, 7)

    @pytest.mark.parametrize("dtype", LOCAL_DTYPES)
    def test_a_map_matches_itself_everywhere_in_every_form(self, dtype):
        form = quantize_local_features(random_map(6, 7, 64), dtype)
        assert mutual_matches(form, form).tolist() == [[i, i] for i in range(42)]

    @pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.05), ("int8", 0.05), ("binary", 0.3)])
    def test_counts_stay_close_to_the_exact_ones(self, dtype, most):
        query = random_map(20, 20, 128)
        candidates = normalize(query + 0.7 * random_map(3, 20, 20, 128, seed=1), dim=-1)
        exact = count_mutual_matches(query, candidates).float()
        forms = quantize_local_features(query, query_dtype(dtype)), quantize_local_features(candidates, dtype)
        assert ((count_mutual_matches(*forms) - exact).abs() / exact).max() <= most

    def test_signs_are_compared_with_numbers_of_the_query(self):
        query, candidate = random_map(20, 20, 128), random_map(20, 20, 128, seed=1)
        numbers = quantize_local_features(query, query_dtype("binary"))
        assert numbers.dtype is torch.int8
        form = quantize_local_features(candidate, "binary")
        similarity = numbers.view(400, 128).float() @ as_vectors(form.flatten(0, 1)).float().T
        forward, backward = similarity.argmax(dim=1), similarity.argmax(dim=0)
        expected = [[n, m] for n, m in enumerate(forward.tolist()) if backward[m] == n]
        assert mutual_matches(numbers, form).tolist() == expected

    def test_numbers_and_floats_are_not_compared(self):
        features = random_map(2, 2, 8)
        with pytest.raises(ValueError, match=r"or all whole numbers, got 8 torch.float32 .* 8 torch.uint8"):
            mutual_matches(features, quantize_local_features(features, "binary"))

    def test_an_unknown_form_is_answered_with_those_there_are(self):
        with pytest.raises(ValueError, match=r"dtype must be one of 'float32', .*, got 'int4'"):
            quantize_local_features(random_map(2, 2, 8), "int4")

    def test_signs_of_channels_that_fill_no_byte_are_refused(self):
        with pytest.raises(ValueError, match="multiple of 8 channels, got 12; use int8"):
            quantize_local_features(random_map(2, 2, 12), "binary")


class TestFastestLocalDtype:
    @pytest.mark.parametrize("fastest", quantisation.FAITHFUL_DTYPES)
    def test_the_form_that_took_least_is_named(self, fastest, monkeypatch):
        kind = {"float32": torch.float32, "int8": torch.int8}[fastest]
        monkeypatch.setattr(quantisation, "_seconds", lambda features: 1.0 if features.dtype is kind else 2.0)
        quantisation.fastest_local_dtype.cache_clear()
        try:
            assert fastest_local_dtype() == fastest
        finally:
            quantisation.fastest_local_dtype.cache_clear()

    def test_it_is_one_that_finds_the_same_places(self):
        assert fastest_local_dtype() in quantisation.FAITHFUL_DTYPES
        assert fastest_local_dtype() in LOCAL_DTYPES
