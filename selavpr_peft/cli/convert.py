"""`selavpr convert`: an official checkpoint becomes an adapter folder."""

from pathlib import Path
from typing import Annotated

import typer

from selavpr_peft.cli import options
from selavpr_peft.cli.printing import quiet_host_libraries, write_json
from selavpr_peft.files import check_writable, folder_written_at_once


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint written by the official SelaVPR code.")],
    output: Annotated[Path, typer.Option(help="Folder to write adapter/ (and backbone/) into.", show_default=False)],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder whose weights the checkpoint was trained on; only the adapter is written."
        ),
    ] = None,
    num_attention_heads: Annotated[
        int | None, typer.Option(help="Attention heads, where they are not width / 64.")
    ] = None,
    json: options.Json = None,
) -> None:
    """Convert an official SelaVPR checkpoint into an adapter that PEFT loads.

    Without --backbone the frozen backbone is written beside the adapter. With it, its weights must equal those in the
    checkpoint. The checkpoint is read without running any code from it. Folders that are there already are never
    replaced.

    Example:
        selavpr convert SelaVPR_msls.pth --output selavpr-msls --backbone facebook/dinov2-large
    """
    folders = [output / name for name in (("adapter", "backbone") if backbone is None else ("adapter",))]
    for folder in folders:
        _check_new(folder)
    quiet_host_libraries()
    from selavpr_peft.hub.official_checkpoint import convert_official_checkpoint
    from selavpr_peft.hub.saving import save_adapter

    model = convert_official_checkpoint(checkpoint, backbone=backbone, num_attention_heads=num_attention_heads)
    if backbone is None:
        model.active_peft_config.base_model_name_or_path = str((output / "backbone").absolute())
    with folder_written_at_once(output / "adapter") as folder:
        save_adapter(model, folder, name=output.name)
    if backbone is None:
        with folder_written_at_once(output / "backbone") as folder:
            model.unload().save_pretrained(folder)
    sizes = {str(folder): sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
    if json != "-":
        for name, size_bytes in sizes.items():
            typer.echo(f"{name}  {size_bytes / 1e6:.1f} MB")
    if json is not None:
        write_json({"checkpoint": str(checkpoint), "backbone": backbone, "written_bytes": sizes}, json)


def _check_new(folder: Path) -> None:
    """Refuse, before anything is read, a folder that would be replaced or cannot be made."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; name another folder for --output, or delete it.")
    check_writable(folder)
