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
WIDTH_PX, QUALITY = 1200, 88


def main() -> None:
    """Draw everything in a temporary folder and keep small copies."""
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            subprocess.run([sys.executable, *map(str, command)], cwd=folder, check=True)
        for path in sorted(Path(folder, "pictures").glob("*.png")):
            with Image.open(path) as picture:
                shrink(picture).save(IMAGES / f"{path.stem}.webp", quality=QUALITY, method=6)


def shrink(picture: Image.Image) -> Image.Image:
    """Reduce the size of a picture to what a page shows, so that a clone of the repository stays small."""
    width = min(WIDTH_PX, picture.width)
    height = round(picture.height * width / picture.width)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
