"""How `make docs` builds the pages: Markdown by MyST, the reference from docstrings."""

import selavpr_peft

project = "selavpr_peft"
version = release = selavpr_peft.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write names as `name`
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links out of docs/, which a test follows
html_theme = "furo"
html_title = "selavpr_peft"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["triton"]
