"""`selavpr convert`: an official checkpoint, here made by hand, becomes folders that PEFT loads."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

from selavpr_peft.hub import convert_official_checkpoint

WIDTH, NUM_BLOCKS, GRID, PATCH = 64, 2, 3, 14


def official_shapes():
    """Names and shapes of the official network, two blocks deep; modules have weight and bias."""
    modules = {
        "backbone.patch_embed.proj": (WIDTH, 3, PATCH, PATCH),
        "backbone.norm": (WIDTH,),
        "LocalAdapt.upconv1": (WIDTH, 16, 3, 3),
        "LocalAdapt.upconv2": (16, 8, 3, 3),
    }
    shapes = {
        "backbone.cls_token": (1, 1, WIDTH),
        "backbone.pos_embed": (1, 1 + GRID**2, WIDTH),
        "backbone.mask_token": (1, WIDTH),
        "aggregation.1.p": (1,),
    }
    for index in range(NUM_BLOCKS):
        block = f"backbone.blocks.{index}"
        modules |= {
            f"{block}.norm1": (WIDTH,),
            f"{block}.norm2": (WIDTH,),
            f"{block}.attn.qkv": (3 * WIDTH, WIDTH),
            f"{block}.attn.proj": (WIDTH, WIDTH),
            f"{block}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"{block}.mlp.fc2": (WIDTH, 4 * WIDTH),
        }
        for adapter in ("adapter1", "adapter2"):
            modules |= {
                f"{block}.{adapter}.D_fc1": (WIDTH // 2, WIDTH),
                f"{block}.{adapter}.D_fc2": (WIDTH, WIDTH // 2),
            }
        shapes |= {f"{block}.ls1.gamma": (WIDTH,), f"{block}.ls2.gamma": (WIDTH,)}
    for name, shape in modules.items():
        is_transposed = name.startswith("LocalAdapt")
        shapes |= {f"{name}.weight": shape, f"{name}.bias": (shape[1 if is_transposed else 0],)}
    return shapes


@pytest.fixture
def checkpoint(tmp_path):
    """A file as the official training script writes it, with random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"module.{name}": 0.3 * torch.randn(shape, generator=generator) for name, shape in official_shapes().items()
    }
    state["module.aggregation.1.p"] = torch.tensor([2.5])
    path = tmp_path / "official.pth"
    content = {
        "epoch_num": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {},
        "recalls": np.array([90.0, 95.0, 96.0, 98.0]),
        "best_r5": np.float64(95.0),
        "not_improved_num": 1,
    }
    torch.save(content, path)
    return path


def outputs(model):
    images = torch.randn(2, 3, 28, 42, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(pixel_values=images)


class TestConvert:
    def test_both_folders_load_as_one_model_with_the_same_numbers(self, selavpr, checkpoint, tmp_path):
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out")
        assert (run.code, run.err) == (0, "")
        base = AutoModel.from_pretrained(tmp_path / "out" / "backbone")
        found = outputs(PeftModel.from_pretrained(base, tmp_path / "out" / "adapter"))
        expected = outputs(convert_official_checkpoint(checkpoint))
        assert torch.equal(found.global_descriptors, expected.global_descriptors)
        assert torch.equal(found.local_features, expected.local_features)
        assert tuple(found.local_features.shape) == (2, 5, 9, 8)

    def test_sizes_are_printed(self, selavpr, checkpoint, tmp_path):
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out")
        lines = [re.fullmatch(r"(.+)  (\d+\.\d) MB", line) for line in run.out.splitlines()]
        assert [line[1] for line in lines] == [f"{tmp_path}/out/adapter", f"{tmp_path}/out/backbone"]
        for line in lines:
            size_bytes = sum(file.stat().st_size for file in (tmp_path / line[1]).iterdir())
            assert float(line[2]) == pytest.approx(size_bytes / 1e6, abs=0.05)

    def test_json_says_the_same(self, selavpr, checkpoint, tmp_path):
        report = selavpr("convert", checkpoint, "--output", tmp_path / "out", "--json", "-").report
        assert (report["checkpoint"], report["backbone"]) == (str(checkpoint), None)
        adapter, backbone = report["written_bytes"].items()
        assert (adapter[0], backbone[0]) == (f"{tmp_path}/out/adapter", f"{tmp_path}/out/backbone")
        assert 0 < adapter[1] < backbone[1]

    def test_the_adapter_names_the_backbone_beside_it(self, selavpr, checkpoint, tmp_path):
        selavpr("convert", checkpoint, "--output", tmp_path / "out")
        config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"{tmp_path}/out/backbone"
        assert (config["position_interpolation"], config["resize"]) == ("official", "official")

    def test_with_its_backbone_only_the_adapter_is_written(self, selavpr, checkpoint, tmp_path):
        selavpr("convert", checkpoint, "--output", tmp_path / "first")
        backbone = tmp_path / "first" / "backbone"
        run = selavpr("convert", checkpoint, "--output", tmp_path / "second", "--backbone", backbone)
        assert run.code == 0, run.err
        assert [folder.name for folder in (tmp_path / "second").iterdir()] == ["adapter"]
        loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), tmp_path / "second" / "adapter")
        assert torch.equal(
            outputs(loaded).global_descriptors, outputs(convert_official_checkpoint(checkpoint)).global_descriptors
        )

    def test_the_number_of_heads_can_be_given(self, selavpr, checkpoint, tmp_path):
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out", "--num-attention-heads", 4)
        assert run.code == 0, run.err
        assert AutoModel.from_pretrained(tmp_path / "out" / "backbone").config.num_attention_heads == 4


class TestMistakes:
    def test_a_damaged_file_leaves_nothing_behind(self, selavpr, checkpoint, tmp_path):
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out")
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(
            r"Error: .*official\.pth cannot be read .* damaged or incomplete: fetch it again\.\n", run.err
        )
        assert [file.name for file in tmp_path.iterdir()] == ["official.pth"]

    def test_a_missing_file_is_named(self, selavpr, tmp_path):
        run = selavpr("convert", tmp_path / "nowhere.pth", "--output", tmp_path / "out")
        assert (run.code, run.err) == (2, f"Error: There is no checkpoint file {tmp_path}/nowhere.pth.\n")

    def test_another_backbone_is_refused(self, selavpr, checkpoint, models, tmp_path):
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out", "--backbone", models / "backbone")
        assert (run.code, run.out) == (2, "")
        assert re.match(
            "Error: The backbone differs from the checkpoint's frozen part in .* tensors: backbone", run.err
        )
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["adapter", "backbone"])
    def test_a_folder_that_is_there_is_kept_and_the_checkpoint_not_even_read(self, selavpr, tmp_path, name):
        old = tmp_path / "out" / name
        old.mkdir(parents=True)
        (old / "config.json").write_text("old")
        run = selavpr("convert", tmp_path / "nowhere.pth", "--output", tmp_path / "out")
        assert (run.code, run.out) == (2, "")
        assert run.err == f"Error: {old} is there already; name another folder for --output, or delete it.\n"
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [f"out/{name}/config.json"]

    def test_converting_again_is_refused(self, selavpr, checkpoint, tmp_path):
        assert selavpr("convert", checkpoint, "--output", tmp_path / "out").code == 0
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out")
        assert (run.code, run.out) == (2, "")
        assert run.err.startswith(f"Error: {tmp_path}/out/adapter is there already")

    def test_a_backbone_that_would_not_be_written_may_be_there(self, selavpr, checkpoint, tmp_path):
        selavpr("convert", checkpoint, "--output", tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "adapter")
        run = selavpr("convert", checkpoint, "--output", tmp_path / "out", "--backbone", tmp_path / "out" / "backbone")
        assert run.code == 0, run.err
        assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == ["adapter", "backbone"]

    def test_an_output_that_is_a_file_is_refused_before_the_checkpoint_is_read(self, selavpr, tmp_path):
        (tmp_path / "out").write_text("old")
        run = selavpr("convert", tmp_path / "nowhere.pth", "--output", tmp_path / "out")
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(r"Error: .*/out/adapter cannot be written, because .*/out takes no such .*\n", run.err)
        assert (tmp_path / "out").read_text() == "old"
