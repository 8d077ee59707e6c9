"""Checkpoints of unknown origin: nothing in them is run, and whatever is wrong is said in one clear sentence."""

import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub import convert_official_checkpoint
from selavpr_peft.hub.safe_checkpoint import read_network_state
from tests.hub.official_network import official_state, save_official, training_checkpoint

TENSORS = {"module.a": torch.arange(3.0), "module.b.weight": torch.ones(2, 2)}


class Hostile:
    """An object whose unpickling runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(path, content):
    torch.save(content, path)
    return path


def refusal(path, reader=read_network_state):
    """Give the message with which a file is refused, once it is known to be a single clear one."""
    with pytest.raises(CheckpointError) as caught:
        reader(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "Re-running" not in message  # PyTorch's advice to read the file without restrictions
    assert "add_safe_globals(" not in message
    return message


def respelled(path, replacements):
    """Change names inside a checkpoint's pickle, as another numpy would have written them."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                for before, after in replacements.items():
                    assert before in data
                    data = data.replace(before, after)
            new.writestr(entry.filename, data)
    path.write_bytes(content.getvalue())
    return path


class TestWhatIsRead:
    def assert_is_read(self, path):
        state = read_network_state(path)
        assert list(state) == ["a", "b.weight"]
        assert torch.equal(state["a"], torch.arange(3.0))

    def test_a_training_checkpoint_with_its_numpy_members(self, tmp_path):
        content = {"model_state_dict": TENSORS, "recalls": np.array([90.8, 96.4]), "best_r5": np.float64(96.4)}
        self.assert_is_read(saved(tmp_path / "a.pth", content))

    def test_the_spelling_of_numpy_1(self, tmp_path):
        content = {"model_state_dict": TENSORS, "recalls": np.array([90.8, 96.4]), "best_r5": np.float64(96.4)}
        path = respelled(
            saved(tmp_path / "a.pth", content), {b"cnumpy._core.multiarray\n": b"cnumpy.core.multiarray\n"}
        )
        assert b"numpy._core" not in path.read_bytes()
        assert path.read_bytes().count(b"numpy.core.multiarray") == 2
        self.assert_is_read(path)

    @pytest.mark.parametrize(
        "content",
        [TENSORS, {"model_state_dict": TENSORS}, {"a": TENSORS["module.a"], "b.weight": TENSORS["module.b.weight"]}],
    )
    def test_a_state_dict_alone(self, tmp_path, content):
        self.assert_is_read(saved(tmp_path / "a.pth", content))

    def test_the_format_of_pytorch_before_1_6(self, tmp_path):
        torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        self.assert_is_read(tmp_path / "a.pth")

    def test_safetensors(self, tmp_path):
        save_file(TENSORS, tmp_path / "a.safetensors")
        self.assert_is_read(tmp_path / "a.safetensors")

    def test_parameters_and_half_precision(self, tmp_path):
        path = saved(tmp_path / "a.pth", {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.ones(2).half()})
        assert read_network_state(path)["a"].tolist() == [1, 1]
        assert read_network_state(path)["b"].dtype == torch.float16


class TestHostileFiles:
    @pytest.fixture
    def marker(self, tmp_path):
        return tmp_path / "ran"

    def test_the_weapon_works(self, marker):
        pickle.loads(pickle.dumps(Hostile(marker)))
        assert marker.exists()

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda hostile: hostile,
            lambda hostile: {"model_state_dict": TENSORS, "recalls": hostile},
            lambda hostile: {"model_state_dict": {**TENSORS, "module.c": hostile}},
            lambda hostile: {**TENSORS, "optimizer_state_dict": {"state": {0: [({"x": hostile},)]}}},
            lambda hostile: {hostile: 1},
        ],
        ids=["alone", "member", "tensor", "deep inside", "key"],
    )
    @pytest.mark.parametrize("is_zip", [True, False])
    def test_run_nothing(self, tmp_path, marker, wrap, is_zip):
        torch.save(wrap(Hostile(marker)), tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
        message = refusal(tmp_path / "a.pth")
        assert not marker.exists()
        assert str(tmp_path / "a.pth") in message
        assert "could run code" in message
        assert "posix.system" in message

    def test_run_nothing_as_a_plain_pickle(self, tmp_path, marker):
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"model_state_dict": Hostile(marker)}))
        refusal(tmp_path / "a.pth")
        assert not marker.exists()

    def test_run_nothing_under_the_name_of_safetensors(self, tmp_path, marker):
        saved(tmp_path / "a.safetensors", Hostile(marker))
        assert "cannot be read as safetensors" in refusal(tmp_path / "a.safetensors")
        assert not marker.exists()

    def test_run_nothing_when_converted(self, tmp_path, marker):
        path = saved(tmp_path / "a.pth", training_checkpoint(official_state()) | {"best_r5": Hostile(marker)})
        refusal(path, lambda path: convert_official_checkpoint(path, num_attention_heads=3))
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("member", "named"),
        [
            (np.testing.assert_equal, "numpy.testing"),
            (np.array([1, None], dtype=object), "ObjectDType"),
            (np.array(["a"]), "StrDType"),
            (np.load, "numpy.load"),
            (np.ma.array([1.0]), "numpy.ma"),
            (torch.nn.Linear(1, 1), "Linear"),
            (np.random.default_rng(0), "numpy.random"),
        ],
        ids=["function", "objects", "text", "np.load", "subclass", "module", "generator"],
    )
    def test_may_hold_no_other_member_which_is_named(self, tmp_path, member, named):
        message = refusal(saved(tmp_path / "a.pth", {"model_state_dict": TENSORS, "recalls": member}))
        assert str(tmp_path / "a.pth") in message
        assert named in message

    def test_are_refused_also_where_others_were_allowed_before(self, tmp_path, marker):
        saved(tmp_path / "good.pth", {"model_state_dict": TENSORS, "best_r5": np.float64(1)})
        read_network_state(tmp_path / "good.pth")
        assert not [entry for entry in torch.serialization.get_safe_globals() if "numpy" in str(entry)]
        refusal(saved(tmp_path / "bad.pth", Hostile(marker)))
        assert not marker.exists()


class TestFilesThatAreNoCheckpoint:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"Not Found",
            b"<!DOCTYPE html><html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            b"\x80\x02",
        ],
        ids=["empty", "blank", "text", "web page", "LFS pointer", "start of a pickle"],
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
    def test_are_refused_by_name(self, tmp_path, content, suffix):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        assert refusal(path).startswith(str(path))

    def test_like_a_folder(self, tmp_path):
        assert refusal(tmp_path) == f"There is no checkpoint file {tmp_path}."

    def test_like_one_that_is_missing(self, tmp_path):
        assert refusal(tmp_path / "a.pth") == f"There is no checkpoint file {tmp_path / 'a.pth'}."

    def test_like_a_zip_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("readme.txt", "hello")
        message = refusal(tmp_path / "a.pth")
        assert message.startswith(str(tmp_path / "a.pth"))
        assert "readme.txt" in message

    @pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript:UserWarning")
    def test_like_a_program_of_torchscript(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("a/data.pkl", pickle.dumps(None, protocol=2))
            archive.writestr("a/constants.pkl", pickle.dumps((), protocol=2))
            archive.writestr("a/version", "3\n")
        assert refusal(tmp_path / "a.pth").startswith(str(tmp_path / "a.pth"))

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ([1, 2], "an object of type list"),
            (None, "an object of type NoneType"),
            (torch.ones(2), "an object of type Tensor"),
            ({}, "an empty one"),
            ({"model_state_dict": {}}, "an empty one"),
            ({"model_state_dict": [1]}, "an object of type list"),
            ({"epoch_num": 3, "recalls": [1.0]}, r"'epoch_num' \(int\) in it"),
            ({"model_state_dict": {"a": torch.ones(1), "b": 3.0}}, r"'b' \(float\) in it"),
            ({"a": torch.ones(1), 7: torch.ones(1)}, r"7 \(torch.float32, torch.strided\) in it"),
            ({"a": torch.ones(1, dtype=torch.int8)}, r"'a' \(torch.int8, torch.strided\) in it"),
            ({"a": torch.eye(2).to_sparse()}, r"'a' \(torch.float32, torch.sparse_coo\) in it"),
        ],
    )
    def test_like_a_file_of_something_else(self, tmp_path, content, found):
        message = refusal(saved(tmp_path / "a.pth", content))
        assert message.startswith(f"{tmp_path / 'a.pth'} must hold a state dict of float tensors")
        assert re.search(f"got {found}[.]$", message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cut")


@pytest.fixture(scope="module")
def whole(folder):
    return {
        ".pth": save_official(folder / "whole.pth", official_state(depth=1, grid=1)).read_bytes(),
        ".safetensors": safetensors_bytes(folder / "whole.safetensors", official_state(depth=1, grid=1)),
    }


class TestCutOffFiles:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @given(share=st.floats(0, 1))
    @settings(max_examples=40, deadline=None)
    def test_are_refused_by_name_wherever_the_cut_is(self, folder, whole, suffix, share):
        content = whole[suffix][: int(share * (len(whole[suffix]) - 1))]
        (folder / f"cut{suffix}").write_bytes(content)
        assert refusal(folder / f"cut{suffix}").startswith(str(folder / f"cut{suffix}"))

    @pytest.mark.parametrize("num_bytes", [1, 2, 4, 8, 64])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_are_refused_also_when_little_is_missing(self, folder, whole, suffix, num_bytes):
        (folder / f"cut{suffix}").write_bytes(whole[suffix][:-num_bytes])
        assert refusal(folder / f"cut{suffix}").startswith(str(folder / f"cut{suffix}"))


def safetensors_bytes(path, tensors):
    save_file(tensors, path)
    return path.read_bytes()


class TestNetworksThatDoNotFit:
    """Files that are read, but hold no SelaVPR network: each is refused by the name of a tensor."""

    def message(self, tmp_path, state):
        path = save_official(tmp_path / "a.pth", state)
        return refusal(path, lambda path: convert_official_checkpoint(path, num_attention_heads=1))

    OPTIONAL = ("backbone.mask_token", "backbone.register_tokens")

    @pytest.mark.parametrize("settings", [{"registers": 2}, {"swiglu": True}])
    def test_because_a_tensor_is_missing(self, tmp_path, settings):
        whole = official_state(grid=1, width=12, **settings)
        for name in whole:
            if name in self.OPTIONAL:
                continue
            message = self.message(tmp_path, {other: tensor for other, tensor in whole.items() if other != name})
            deciding = {"backbone.blocks.0.mlp.w12.weight": "mlp.fc1", "backbone.blocks.0.attn.qkv.bias": "1.attn.qkv"}
            assert deciding.get(name, name) in message

    @pytest.mark.parametrize("settings", [{"registers": 2}, {"swiglu": True}])
    def test_because_a_tensor_has_no_shape(self, tmp_path, settings):
        whole = official_state(grid=1, width=12, **settings)
        for name in whole:
            message = self.message(tmp_path, whole | {name: torch.tensor(1.0)})
            deciding = {"backbone.blocks.0.mlp.w12.weight": "backbone.blocks.0.mlp.w"}
            assert deciding.get(name, name) in message

    @pytest.mark.parametrize("settings", [{"registers": 2}, {"swiglu": True}])
    @pytest.mark.parametrize("axis", [0, -1])
    def test_because_a_tensor_is_too_long(self, tmp_path, settings, axis):
        whole = official_state(grid=1, width=12, **settings)
        for name, tensor in whole.items():
            longer = torch.cat((tensor, tensor.narrow(axis, 0, 1)), dim=axis)
            message = self.message(tmp_path, whole | {name: longer})
            assert re.search(r"(backbone|LocalAdapt|aggregation)\.[\w.]+", message), name

    def test_because_a_tensor_is_empty(self, tmp_path, state):
        for name in ("backbone.cls_token", "LocalAdapt.upconv1.weight", "backbone.blocks.0.adapter1.D_fc1.weight"):
            message = self.message(tmp_path, state | {name: state[name][..., :0]})
            assert name in message
            assert "none of them 0" in message

    @pytest.mark.parametrize(
        "extra",
        [
            "backbone.head.weight",
            "backbone.blocks.0.attn.extra",
            "backbone.blocks.1.adapter3.D_fc1.weight",
            "backbone.blocks.x.attn.qkv.weight",
            "LocalAdapt.upconv3.weight",
            "fc.bias",
        ],
    )
    def test_because_a_tensor_is_unknown(self, tmp_path, state, extra):
        message = self.message(tmp_path, state | {extra: torch.ones(1)})
        assert message.endswith(f"missing or unknown: {extra}.")

    def test_because_blocks_are_missing_in_between(self, tmp_path):
        state = official_state(depth=3, grid=1)
        state = {name: tensor for name, tensor in state.items() if ".blocks.1." not in name}
        assert "without a gap, got [0, 2]" in self.message(tmp_path, state)

    def test_because_there_are_no_blocks(self, tmp_path, state):
        state = {name: tensor for name, tensor in state.items() if ".blocks." not in name}
        assert "without a gap, got []" in self.message(tmp_path, state)

    def test_because_blocks_of_different_kinds_are_mixed(self, tmp_path, state):
        other = official_state(swiglu=True)
        state = {name: tensor for name, tensor in state.items() if ".blocks.1." not in name}
        state |= {name: tensor for name, tensor in other.items() if ".blocks.1." in name}
        message = self.message(tmp_path, state)
        assert "backbone.blocks.1.mlp.fc1.bias" in message
        assert "backbone.blocks.1.mlp.w12.bias" in message

    def test_because_blocks_of_different_widths_are_mixed(self, tmp_path, state):
        state |= {name: tensor for name, tensor in official_state(width=60).items() if ".blocks.1." in name}
        assert re.search(r"backbone.blocks.1.[\w.]+ must have shape \(\d+.* got \(", self.message(tmp_path, state))

    def test_because_the_adapters_differ_in_width(self, tmp_path, state):
        state |= {name: tensor for name, tensor in official_state(adapter_width=7).items() if "adapter2" in name}
        message = self.message(tmp_path, state)
        assert "blocks.0.adapter2.D_fc1.weight must have shape (24, 48)" in message
        assert message.endswith("got (7, 48).")

    def test_because_the_adapters_are_wider_than_the_backbone(self, tmp_path):
        message = self.message(tmp_path, official_state(adapter_width=49))
        assert "adapter1.D_fc1 must be at most as wide as the backbone, 48, got 49" in message

    def test_because_the_positions_are_no_square(self, tmp_path, state):
        message = self.message(tmp_path, state | {"backbone.pos_embed": torch.ones(1, 1 + 12, 48)})
        assert "backbone.pos_embed must hold a square grid and the CLS token, got 12" in message

    def test_because_only_the_cls_token_has_a_position(self, tmp_path, state):
        message = self.message(tmp_path, state | {"backbone.pos_embed": torch.ones(1, 1, 48)})
        assert "backbone.pos_embed must hold a square grid" in message

    def test_because_the_mlp_has_no_whole_ratio(self, tmp_path, state):
        message = self.message(tmp_path, state | {"backbone.blocks.0.mlp.fc1.weight": torch.ones(100, 48)})
        assert "backbone.blocks.0.mlp.fc1 must be a whole multiple of the width 48, got 100" in message

    def test_because_swiglu_has_no_whole_ratio(self, tmp_path):
        state = official_state(swiglu=True) | {"backbone.blocks.0.mlp.w3.weight": torch.ones(48, 33)}
        assert "backbone.blocks.0.mlp.w3 takes 33 channels" in self.message(tmp_path, state)

    @pytest.mark.parametrize(
        ("p", "found"),
        [([torch.nan], "nan"), ([-3.0], "-3.0"), ([0.0], "0.0"), ([torch.inf], "inf"), ([3.0, 3.0], "[3.0, 3.0]")],
    )
    def test_because_the_exponent_of_gem_is_none(self, tmp_path, state, p, found):
        message = self.message(tmp_path, state | {"aggregation.1.p": torch.tensor(p)})
        assert message.startswith("aggregation.1.p must be one positive number")
        assert found in message

    def test_because_they_are_backbones_alone(self, tmp_path, state):
        frozen = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
        assert "has no tensor LocalAdapt.upconv1.weight" in self.message(tmp_path, frozen)
        plain = {name.removeprefix("backbone."): tensor for name, tensor in frozen.items()}
        assert "has no tensor backbone.cls_token" in self.message(tmp_path, plain)
