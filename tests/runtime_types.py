"""Check types and shapes at run time: `python -m pytest -p tests.runtime_types`.

jaxtyping's checks of a call cost many times those of beartype alone. Drawing a toy city is a million small calls, none
of them with a shape, so beartype has them.
"""

from pathlib import Path

from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parent.parent
DRAWING = [f"selavpr_peft.data.{name}" for name in ("toy_houses", "toy_scene", "toy_view")]


def other_modules() -> list[str]:
    """Name all modules but those for drawing; none of a package as such, which would stand for all within it."""
    files = (file for file in (REPOSITORY / "selavpr_peft").rglob("*.py") if file.name != "__init__.py")
    names = (".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files)
    return sorted(set(names) - set(DRAWING))


def pytest_load_initial_conftests() -> None:
    """Have whatever is imported from now on checked: the first conftest.py imports the package."""
    beartype_packages(DRAWING)
    install_import_hook(other_modules(), "beartype.beartype")
