"""The model card of an adapter, written from facts: every figure comes from its files or from an evaluation report.

Its figures are those of card_figures.py. What was measured and what is quoted are kept apart.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from selavpr_peft.files import write_text_atomically
from selavpr_peft.hub.adapter_facts import AdapterFacts, quoted_from
from selavpr_peft.hub.adapter_folder import CARD_NAME
from selavpr_peft.hub.card_calibration import calibration_section, value_table, with_calibration
from selavpr_peft.hub.card_figures import Report, eval_results, recall_tables
from selavpr_peft.retrieval.calibration import Calibration

MARK = "<!-- Written by selavpr_peft from the adapter's files; remove this line to keep what you change. -->"
TRAINED = "## What was trained"
PEFT_PLACEHOLDER = "[More Information Needed]"
SETTINGS = (
    *("bottleneck_ratio", "parallel_scale", "use_serial_adapter", "use_parallel_adapter", "use_local_head"),
    *("local_channels", "gem_p", "position_interpolation", "layers_to_transform", "target_modules"),
)
"""Fields of SelaConfig that the card lists."""

LIMITS = """\
For finding where a photograph was taken among geo-tagged images of the same area: retrieval by the global
descriptor, re-ranking by mutual nearest neighbours of the local features. Figures hold for the places, the conditions
and the radius named with them; other cities, seasons, times of day or cameras must be evaluated anew. There is no
geometric verification, and an image that shows none of the places still gets a best candidate: do not rely on the
answer alone where a wrong position does harm. Locating people's photographs can intrude upon their privacy."""

CITATION = """\
```bibtex
@inproceedings{lu2024selavpr,
  title     = {Towards Seamless Adaptation of Pre-trained Models for Visual Place Recognition},
  author    = {Lu, Feng and Zhang, Lijun and Lan, Xiangyuan and Dong, Shuting and Wang, Yaowei and Yuan, Chun},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}
```"""


def write_model_card(
    folder: Path,
    *,
    reports: Sequence[Report] = (),
    training: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    license_id: str | None = None,
) -> bool:
    """Write the card into an adapter's folder, unless a card that somebody else has written is there.

    Args:
        folder: Folder of a saved adapter.
        reports: Evaluation reports of its weights, and quoted ones.
        training: What it was trained on and how, as plain values.
        calibration: Of its weights.
        name: Hub id, or what else loads it; by default the name of the folder.
        license_id: Licence of the weights in the Hub's spelling, such as apache-2.0.

    Returns:
        Whether it was written.

    Raises:
        ValueError: If a report or the calibration is of other weights.
    """
    facts = AdapterFacts.of(folder)
    for report in reports:
        facts.check_report(report)
    if calibration is not None:
        calibration.check_adapter(facts.fingerprint)
    path = folder / CARD_NAME
    if path.is_file() and not is_replaceable(path.read_text(encoding="utf-8")):
        return False
    card = model_card(
        facts,
        reports=reports,
        training=training or {},
        calibration=calibration,
        name=name or folder.resolve().name,
        license_id=license_id,
    )
    write_text_atomically(path, str(card))
    return True


def state_calibration(folder: Path, calibration: Calibration) -> bool:
    """Bring what an adapter's card says of its calibration up to date, and leave all else in it as it is.

    Args:
        folder: Folder of a saved adapter.
        calibration: Of its weights.

    Returns:
        Whether there is a card of ours; one that somebody else has written stays.
    """
    path = folder / CARD_NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if MARK not in text:
        return False
    write_text_atomically(path, with_calibration(text, calibration, before=TRAINED))
    return True


def is_replaceable(text: str) -> bool:
    """Tell whether a card is one of ours, or PEFT's empty form.

    Args:
        text: Content of the card.
    """
    return MARK in text or PEFT_PLACEHOLDER in text


def model_card(
    facts: AdapterFacts,
    *,
    reports: Sequence[Report],
    training: Mapping[str, Any],
    calibration: Calibration | None,
    name: str,
    license_id: str | None,
) -> ModelCard:
    """Put the card together.

    Args:
        facts: The adapter.
        reports: Evaluation reports of its weights, and quoted ones.
        training: What it was trained on and how.
        calibration: Of its weights.
        name: Hub id, or what else loads it.
        license_id: Licence of the weights.
    """
    base = hub_id(facts.config.base_model_name_or_path)
    data = ModelCardData(
        library_name="peft",
        pipeline_tag="image-feature-extraction",
        tags=["visual-place-recognition", "image-retrieval", "selavpr", "selavpr_peft"],
        base_model=base,
        license=license_id,
        model_name=name.rpartition("/")[2],
        eval_results=[result for report in reports for result in eval_results(report)] or None,
    )
    measured = [report for report in reports if quoted_from(report) is None]
    quoted = [report for report in reports if quoted_from(report) is not None]
    sections = [
        MARK,
        f"# {name.rpartition('/')[2]}",
        f"A [SelaVPR](https://arxiv.org/abs/2402.14505) adapter for visual place recognition on the frozen backbone"
        f" {_backbone(facts, base)}. It gives one global descriptor per image, by which candidates are retrieved"
        f"{', and local features, by which they are re-ranked' if facts.config.use_local_head else ''}.",
        f"## Use\n\n{_usage(name, base)}",
        f"## Evaluation\n\n{_evaluation(measured)}",
        *([f"## Quoted, not measured\n\n{recall_tables(quoted)}"] if quoted else []),
        *([calibration_section(calibration)] if calibration is not None else []),
        f"{TRAINED}\n\n{_trained(facts, training)}",
        f"## Intended use and limits\n\n{LIMITS}",
        f"## Licence\n\n{_licence(license_id)}",
        f"## Citation\n\n{CITATION}",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def hub_id(name: str | None) -> str | None:
    """Give the name of a backbone if it can be one on the Hub; None for a folder on this machine.

    Args:
        name: As in `adapter_config.json`.
    """
    if not name or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or Path(name).exists():
        return None
    return name


def _backbone(facts: AdapterFacts, base: str | None) -> str:
    config = facts.config
    shape = (
        f"{config.backbone_num_layers} blocks, width {config.backbone_hidden_size}, patches of"
        f" {config.backbone_patch_size} px"
    )
    named = f"[{base}](https://huggingface.co/{base})" if base else "that is not on the Hub"
    digest = f"; weights `{config.backbone_fingerprint}`" if config.backbone_fingerprint else ""
    return f"{named} ({shape}{digest})"


def _usage(name: str, base: str | None) -> str:
    backbone = "" if base else ', backbone="path/to/its/backbone"'
    return (
        f'```python\nimport selavpr_peft  # makes the PEFT type "SELA" known\n\n'
        f'model = selavpr_peft.load("{name}"{backbone})\n'
        f'descriptors = selavpr_peft.pipeline(model)(["photo.jpg"])  # (1, D), unit norm\n```\n\n'
        "With PEFT's own `PeftModel.from_pretrained`, the import has to come first, too."
    )


def _evaluation(measured: Sequence[Report]) -> str:
    return recall_tables(measured) if measured else "These weights come without an evaluation report."


def _trained(facts: AdapterFacts, training: Mapping[str, Any]) -> str:
    height, width = facts.config.image_size
    rows = [
        ("parameters", f"{facts.num_parameters:,}"),
        ("size of the adapter's file", f"{facts.num_bytes:,} bytes"),
        ("digest of the adapter's weights", f"`{facts.fingerprint}`"),
        ("preprocessing", f"{height}x{width} pixels, resizing `{facts.config.resize}`, ImageNet mean and deviation"),
        *((f"`{name}`", _plain(getattr(facts.config, name))) for name in SETTINGS),
        *((name.replace("_", " "), _plain(value)) for name, value in training.items()),
    ]
    return f"Adapters, pooling and local head; the backbone is as it was.\n\n{value_table(rows)}"


def _licence(license_id: str | None) -> str:
    of_weights = f"These weights: {license_id}." if license_id else "The licence of these weights has not been stated."
    return f"{of_weights} The code that loads them, selavpr_peft: Apache-2.0. The backbone has its own."


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "all" if value is None else str(value)
