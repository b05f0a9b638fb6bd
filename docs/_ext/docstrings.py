"""recurra's docstrings as reStructuredText: code in single backticks, examples and equations indented, and sections
such as `Args:` whose entries are `name: text`."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Raises|Returns)\b[^:]*:$")
ENTRY = re.compile(r"(?P<names>[\w*.\[\]]+(, [\w*.\[\]]+)*): (?P<text>.*)$")


def inline(text: str) -> str:
    """Of prose: code stays as it is, and nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([*_|\\<>`])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [rf"\ `{part}`\ " for part in parts[1::2]]  # spaces that are none: code may stand beside a letter
    return "".join(parts)


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines between empty ones; what is indented alike and not prose goes on over them."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def entries(lines: list[str]) -> Iterator[str]:
    """Of a section, as a list of definitions."""
    entry: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) > 4:
            entry.append(line.strip())
            continue
        if entry:
            yield from definition(" ".join(entry))
        entry = [line.strip()]
    if entry:
        yield from definition(" ".join(entry))


def definition(text: str) -> Iterator[str]:
    found = ENTRY.match(text)
    names, rest = (found["names"], found["text"]) if found else ("", text)
    if names:
        yield ", ".join(f"``{name}``" for name in names.split(", "))
        yield f"   {inline(rest)}"
    else:
        yield inline(rest)
    yield ""


def converted(lines: list[str]) -> Iterator[str]:
    for block in blocks(lines):
        indented = [line.startswith("    ") for line in block]
        if SECTION.match(block[0]) and len(block) > 1 and all(indented[1:]):
            yield f".. rubric:: {block[0][:-1]}"
            yield ""
            yield from entries(block[1:])
        elif indented[0]:
            yield ".. code-block:: " + ("pycon" if block[0].lstrip().startswith(">>>") else "text")
            yield ""
            yield from (f"   {line[4:] if line.startswith('    ') else line}" for line in block)
        elif block[0].startswith(">>>"):
            yield ".. code-block:: pycon"
            yield ""
            yield from (f"   {line}" for line in block)
        else:
            # Some have a table of names in two columns, "x   [T, B, I]", below a line: it is indented.
            first = next((k for k, deep in enumerate(indented) if deep), len(block))
            yield from inline("\n".join(block[:first])).split("\n")
            if first < len(block):
                yield ""
                yield ".. code-block:: text"
                yield ""
                yield from (f"   {line[4:] if line.startswith('    ') else line}" for line in block[first:])
        yield ""


class Docstring(SphinxDirective):
    """`docstring:: torch/convert.py:revert`: a module's, or a function's in it, read from the source. For what cannot
    be imported where the site is built."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = find_spec("recurra")
        assert package and package.origin
        path, _, name = self.arguments[0].partition(":")
        tree = ast.parse((Path(package.origin).parent / path).read_text(encoding="utf-8"))
        node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name) if name else tree
        return self.parse_text_to_nodes("\n".join(converted((ast.get_docstring(node) or "").splitlines())))


def process(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    lines[:] = list(converted(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("docstring", Docstring)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
