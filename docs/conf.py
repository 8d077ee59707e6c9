"""How `make docs` builds the pages: Markdown by MyST, the reference from docstrings."""

import inspect
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import selavpr_peft

project = "selavpr_peft"
version = release = selavpr_peft.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]
default_role = "code"  # docstrings write names as `name`
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links out of docs/, which a test follows
html_theme = "furo"
html_title = "selavpr_peft"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["triton"]
maximum_signature_line_length = 80  # longer ones have a line for every argument


def _described_fields(documented: Any) -> list[Field]:
    """Fields of settings that a class adds to those of its library: their help is their documentation."""
    if not (inspect.isclass(documented) and is_dataclass(documented)):
        return []
    own = inspect.get_annotations(documented)
    return [field for field in fields(documented) if field.name in own and "help" in field.metadata]


def _signature_of_settings(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    return ("(**fields)", None) if _described_fields(documented) else None


def _list_of_settings(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    described = _described_fields(documented)
    if not described:
        return
    inherited = next(base for base in documented.__mro__[1:] if is_dataclass(base))
    lines += ["", f"Fields, beside those of `{inherited.__name__}`:", ""]
    for field in described:
        default = "" if field.default is MISSING else f" = {field.default!r}"
        lines += [f"- `{field.name}{default}`: {field.metadata['help']}"]
    lines += [""]


def _returns_without_type(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Say before the colon that there is no type: napoleon takes the words before the first colon for it."""
    for number, line in enumerate(lines[:-1]):
        if line.strip() in {"Returns:", "Yields:"}:
            text = lines[number + 1].lstrip()
            lines[number + 1] = lines[number + 1].removesuffix(text) + ": " + text


def _find_pictures_of_readme(app: Sphinx, document: nodes.document) -> None:
    for picture in document.findall(nodes.image):
        picture["uri"] = picture["uri"].removeprefix("docs/")


def _link_to_first_page(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = source[0].replace("](../README.md", "](index.md")


def setup(app: Sphinx) -> None:
    """Show the README as the first page, and settings as a list of fields instead of one signature over many lines."""
    app.connect("source-read", _link_to_first_page)
    app.connect("doctree-read", _find_pictures_of_readme, priority=400)  # before Sphinx looks for the files
    app.connect("autodoc-process-signature", _signature_of_settings)
    app.connect("autodoc-process-docstring", _list_of_settings)
    app.connect("autodoc-process-docstring", _returns_without_type, priority=400)  # before napoleon
