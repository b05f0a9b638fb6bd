"""The directive `help`: what `recurra COMMAND --help` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class Help(Directive):
    """Its argument is the command, as in `inspect` or `demo variants`."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", "recurra", *" ".join(self.arguments).split(), "--help"]
        environment = os.environ | {"COLUMNS": "92", "NO_COLOR": "1"}
        text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("help", Help)
    return {"parallel_read_safe": True}
