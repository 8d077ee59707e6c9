"""`selavpr train`: train an adapter on your places."""

import sys
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json

if TYPE_CHECKING:
    from selavpr_peft.training import SelaTrainer

TOP_LEVEL_KEYS = ("data", "eval_data", "backbone", "adapter", "output", "train_frames", "eval_frames")
SECTIONS = ("adapter_settings", "training")
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A field of SelaTrainingArguments or SelaConfig, for example learning_rate=1e-4; may be repeated.",
    ),
]


def train(
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with the settings below and the sections named there.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Places to train on: DIR, DIR:TRAVERSE or an @utm@ folder.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Places to evaluate on while training.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Hub id or folder of the frozen backbone.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter to go on from; without it a fresh one.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints and the trained adapter.")] = None,
    train_frames: options.Frames = None,
    eval_frames: options.Frames = None,
    settings: Setting = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print what would be done, stop.")
    ] = False,
    json: options.Json = None,
) -> None:
    r"""Train serial and parallel adapters, GeM and the local head on mined triplets.

    Settings come from --config, then from the options, then from --set. In the file, `training:` holds fields of
    SelaTrainingArguments and `adapter_settings:` fields of SelaConfig. Defaults are those of the official code; places
    with frame numbers need positive_radius, negative_radius and, to evaluate, eval_positive_radius.

    Example:
        selavpr train --data walk --backbone facebook/dinov2-base --output my-city \
            --set positive_radius=2 --set negative_radius=8 --set num_train_epochs=4
    """
    chosen = read_settings(config)
    given = {
        "data": data,
        "eval_data": eval_data,
        "backbone": backbone,
        "adapter": adapter,
        "output": output,
        "train_frames": train_frames,
        "eval_frames": eval_frames,
    }
    chosen |= {name: value for name, value in given.items() if value is not None}
    for name in ("data", "backbone", "output"):
        if not chosen.get(name):
            raise ValueError(f"--{name} is needed, as an option or in the file of --config.")
    quiet_host_libraries()
    from selavpr_peft.training.estimate import estimate_run

    trainer = build_trainer(chosen, settings or [])
    summary = estimate_run(trainer)
    if json != "-":
        for name, value in summary.items():
            typer.echo(f"{name.replace('_', ' '):<28} {value}")
    if not dry_run:
        if not resume:
            _tell_of_earlier_run(Path(chosen["output"]))
        with redirect_stdout(sys.stderr if json == "-" else sys.stdout):  # Trainer prints its log
            trainer.train(resume_from_checkpoint=resume or None)
        trainer.save_model()
        summary |= {"output": chosen["output"], "steps": trainer.state.global_step}
        if json != "-":
            typer.echo(f"adapter written to {chosen['output']}")
    if json is not None:
        write_json(summary, json)


def _tell_of_earlier_run(output: Path) -> None:
    """Say that an earlier run could be continued: a new one writes over its checkpoints."""
    from selavpr_peft.training.checkpoints import complete_checkpoints

    found = complete_checkpoints(output)
    if found:
        typer.echo(
            f"note: {output} has checkpoints of an earlier run, the last one {found[-1].name}. This run starts anew"
            " and writes over them; --resume would continue the earlier one.",
            err=True,
        )


def read_settings(config: Path | None) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        config: YAML or JSON file (JSON is YAML), or None.

    Raises:
        ValueError: If it is no table of settings, a name in it is unknown, or a value is of a wrong type.
    """
    if config is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is neither YAML nor JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{config} must hold settings as `name: value`, got {type(content).__name__}.")
    known = {*TOP_LEVEL_KEYS, *SECTIONS}
    unknown = sorted(set(map(str, content)) - known)
    if unknown:
        raise ValueError(f"{config} has unknown settings {unknown}; known are {sorted(known)}.")
    for name in filter(content.__contains__, TOP_LEVEL_KEYS):
        if not isinstance(content[name], str | None):
            raise ValueError(f"{name} in {config} must be text, got {content[name]!r}; put it in quotes.")
    for section in filter(content.__contains__, SECTIONS):
        values = content[section] or {}
        if not isinstance(values, dict):
            raise ValueError(f"{section} in {config} must hold fields as `name: value`, got {values!r}.")
        content[section] = {name: _as_meant(value) for name, value in values.items()}
    return content


def build_trainer(chosen: dict[str, Any], overrides: list[str]) -> "SelaTrainer":
    """Load model and places and set up the trainer.

    Args:
        chosen: Settings by name, with the sections "training" and "adapter_settings".
        overrides: Further fields as NAME=VALUE.

    Raises:
        ValueError: If a field is unknown, or data and settings do not go together.
    """
    from selavpr_peft.data.loading import load_places
    from selavpr_peft.data.place_table import parse_frames
    from selavpr_peft.hub.loading import adapt_freshly, load_adapted_model, load_backbone
    from selavpr_peft.training import SelaTrainer, SelaTrainingArguments
    from selavpr_peft.training.facts import PlaceNames
    from selavpr_peft.tuner.config import SelaConfig

    training, adapter_settings = split_overrides(
        overrides,
        {field.name for field in fields(SelaTrainingArguments) if field.init},
        {field.name for field in fields(SelaConfig) if field.init},
    )
    training = chosen.get("training", {}) | training
    adapter_settings = chosen.get("adapter_settings", {}) | adapter_settings
    _check_names("training", training, SelaTrainingArguments)
    _check_names("adapter_settings", adapter_settings, SelaConfig)
    training = {
        "report_to": [],
        "eval_strategy": "epoch" if chosen.get("eval_data") else "no",
        "logging_strategy": "steps" if "logging_steps" in training else "epoch",  # the loss of every mining round
        "disable_tqdm": False,  # Trainer would take the quiet logging of commands for a wish to see nothing
    } | training
    try:
        arguments = SelaTrainingArguments(output_dir=str(chosen["output"]), **training)
    except TypeError as error:  # transformers compares values before it looks at their types
        raise ValueError(f"A field of training has a value of a wrong type: {error}; got {training}.") from error
    train_places = load_places(chosen["data"], frames=parse_frames(chosen.get("train_frames")))
    eval_places = None
    if chosen.get("eval_data"):
        eval_places = load_places(chosen["eval_data"], frames=parse_frames(chosen.get("eval_frames")))
    if chosen.get("adapter"):
        if adapter_settings:
            raise ValueError("adapter_settings belong to a fresh adapter; the one named by --adapter has its own.")
        model = load_adapted_model(chosen["backbone"], chosen["adapter"], is_trainable=True)
    else:
        model = adapt_freshly(load_backbone(chosen["backbone"]), SelaConfig(**adapter_settings), seed=arguments.seed)
    try:
        trainer = SelaTrainer(model=model, args=arguments, train_places=train_places, eval_places=eval_places)
    except RuntimeError as error:  # so transformers calls what report_to needs and is not installed
        raise ImportError(str(error)) from error
    trainer.place_names = PlaceNames.of(
        *(chosen.get(name) for name in ("data", "eval_data", "train_frames", "eval_frames"))
    )
    return trainer


def split_overrides(
    overrides: list[str], training_fields: set[str], adapter_fields: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort NAME=VALUE settings into those of the training and those of the adapter.

    Args:
        overrides: As given on the command line; values are read as YAML, so numbers, lists and true/false work; so do
            tuples.
        training_fields: Names of the first.
        adapter_fields: Names of the second.

    Raises:
        ValueError: If one is not of this form, or its name is unknown.
    """
    import yaml

    training: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    for text in overrides:
        name, separator, value = text.partition("=")
        if not separator or name not in training_fields | adapter_fields:
            raise ValueError(
                f"--set takes NAME=VALUE with a field of SelaTrainingArguments or SelaConfig, got {text!r}."
            )
        try:
            (training if name in training_fields else adapter)[name] = _as_meant(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ValueError(f"--set {name}=VALUE takes a value as in YAML, got {value!r}: {error}") from error
    return training, adapter


def _as_meant(value: Any) -> Any:
    """Read 1e-4 and (224, 224), which YAML takes for text, as the numbers they are meant to be."""
    if not isinstance(value, str):
        return value
    if value.startswith("(") and value.endswith(")"):
        import yaml

        return [_as_meant(part) for part in yaml.safe_load(f"[{value[1:-1]}]")]
    try:
        return float(value)
    except ValueError:
        return value


def _check_names(section: str, values: dict[str, Any], config_class: type) -> None:
    known = {field.name for field in fields(config_class) if field.init}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{section} has unknown fields {unknown}; see {config_class.__name__}.")
