"""Numbers recorded from the official code: the converted networks and the matching reproduce them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from selavpr_peft.hub import convert_official_checkpoint
from selavpr_peft.hub.safe_checkpoint import read_network_state
from selavpr_peft.matching import count_mutual_matches, mutual_matches, rerank
from tests import reference

RECORDED = {
    "vit_pos224": "vit_pos224",
    "vit_pos518": "vit_pos518",
    "vit_pos518_numpy1": "vit_pos518",
    "vit_reg4_pos518": "vit_reg4_pos518",
    "vit_swiglu_pos518": "vit_swiglu_pos518",
    "vit_deep_pos518": "vit_deep_pos518",
}
"""Checkpoint -> the recording of its outputs."""

TOLERANCE = {"eager": 1e-5, "sdpa": 5e-5}


@pytest.fixture
def parity(shared):
    folder = shared / "parity"
    if not folder.is_dir():
        pytest.skip(f"no recordings of the official code in {shared}")
    return folder


@pytest.fixture
def meta(parity):
    return json.loads((parity / "meta.json").read_text())


def distance(ours, recorded):
    assert ours.shape == recorded.shape
    return float((ours - recorded).abs().max())


class TestConvertedNetworks:
    def test_every_recorded_network_is_compared(self, parity, meta):
        assert {name for name in meta if name.startswith("vit_")} == set(RECORDED.values())
        assert {path.stem for path in parity.glob("*.pth")} == set(RECORDED)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize(("name", "recording"), RECORDED.items())
    def test_outputs_are_the_official_ones_at_every_recorded_size(self, parity, meta, name, recording, attention):
        heads = meta[recording]["num_attention_heads"]
        model = convert_official_checkpoint(parity / f"{name}.pth", num_attention_heads=heads)
        model.get_base_model().set_attn_implementation(attention)
        recorded = load_file(parity / f"{recording}.safetensors")
        for height, width in meta[recording]["sizes"]:
            size = f"{height}x{width}"
            with torch.inference_mode():
                output = model(pixel_values=recorded[f"pixel_values.{size}"])
            tokens = output.last_hidden_state[:, -recorded[f"patch_tokens.{size}"].shape[1] :]
            assert distance(tokens, recorded[f"patch_tokens.{size}"]) <= TOLERANCE[attention], size
            assert distance(output.global_descriptors, recorded[f"global.{size}"]) <= TOLERANCE[attention], size
            assert distance(output.local_features, recorded[f"local.{size}"]) <= TOLERANCE[attention], size

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("vit_pos224", "224x224"),
            ("vit_pos518", "224x308"),
            ("vit_reg4_pos518", "224x224"),
            ("vit_swiglu_pos518", "224x224"),
            ("vit_deep_pos518", "518x224"),
        ],
    )
    def test_the_plain_reference_is_the_official_network_too(self, parity, meta, name, size):
        recorded = load_file(parity / f"{name}.safetensors")
        state = read_network_state(parity / f"{name}.pth")
        outputs = reference.official_network(
            state, recorded[f"pixel_values.{size}"][:1], meta[name]["num_attention_heads"]
        )
        for output, kind in zip(outputs, ("patch_tokens", "global", "local"), strict=True):
            assert distance(output, recorded[f"{kind}.{size}"][:1]) <= 5e-5, kind  # the recording is float32


class TestMatching:
    @pytest.fixture
    def recorded(self, parity):
        return load_file(parity / "matching.safetensors")

    def test_counts_are_the_official_scores(self, recorded):
        counts = count_mutual_matches(recorded["query"], recorded["candidates"])
        assert counts.tolist() == recorded["scores"].tolist()

    def test_matches_are_the_official_pairs(self, recorded):
        for index, candidate in enumerate(recorded["candidates"]):
            ours = mutual_matches(recorded["query"], candidate).tolist()
            assert sorted(ours) == sorted(recorded[f"matches.{index}"].tolist())

    def test_the_order_is_the_official_one_where_scores_differ(self, recorded):
        scores = count_mutual_matches(recorded["query"], recorded["candidates"])
        ours = rerank(scores, torch.arange(len(scores)))
        assert scores[ours].tolist() == scores[recorded["ranking"].long()].tolist()
        is_alone = torch.tensor([int((scores == score).sum()) == 1 for score in scores[ours]])
        assert is_alone.any()
        assert ours[is_alone].tolist() == recorded["ranking"].long()[is_alone].tolist()
