"""The site: `python -m sphinx -W --keep-going docs build/site`, of an installed recurra; needs the extra `docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import recurra

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "recurra"
author = "recurra developers"
copyright = author
release = version = recurra.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings", "command_line"]
exclude_patterns = ["_ext", "_static", "pictures"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page that shows a part of README begins where README's headings are
linkcheck_ignore = [r"https://github\.com/recurra/recurra"]
linkcheck_anchors = False

default_role = "code"
highlight_language = "text"  # of blocks that do not say theirs
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch"]  # recurra.formats.torch needs it to be imported
autodoc_typehints = "none"  # docstrings say more: shapes and dtypes
autodoc_default_options = {"members": True, "special-members": "__call__", "inherited-members": False}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"recurra {release}"
html_static_path = ["_static"]
html_css_files = ["recurra.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "source_repository": "https://github.com/recurra/recurra/",
    "source_branch": "main",
    "source_directory": "docs/",
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
