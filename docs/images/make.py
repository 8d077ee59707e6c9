"""Make the pictures of README and docs, all of the synthetic city: python docs/images/make.py (a few minutes)."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent
REPOSITORY = IMAGES.parent.parent
COMMANDS = (
    ("-m", "selavpr_peft.cli.app", "demo", "--output", "pictures"),
    (REPOSITORY / "examples" / "visualise.py",),
)
WIDTH_PX, NUM_COLOURS = 1000, 128


def main() -> None:
    """Draw everything in a temporary folder and keep small copies."""
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            subprocess.run([sys.executable, *map(str, command)], cwd=folder, check=True)
        for path in sorted(Path(folder, "pictures").glob("*.png")):
            with Image.open(path) as picture:
                shrink(picture).save(IMAGES / path.name, optimize=True)


def shrink(picture: Image.Image) -> Image.Image:
    """Reduce size and number of colours of a picture, so that a clone of the repository stays small."""
    width = min(WIDTH_PX, picture.width)
    small = picture.convert("RGB").resize(
        (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
    )
    return small.quantize(NUM_COLOURS, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
