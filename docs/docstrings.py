"""Docstrings as the site shows them: what Sphinx's markup means, in Markdown (docs/mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe
import latex2mathml.converter

# A run of lines from a prompt to an empty line, as doctest reads it.
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_ROLE = re.compile(r":([a-z]+):`([^`]+)`")
_FORMULA = re.compile(r"^\.\. math::(.*\S.*\n?(?:[ ]+.*\n?)*)", re.MULTILINE)


def markdown_of(text: str) -> str:
    r"""Return the text of a docstring with examples and roles as code, and formulas as MathML.

    >>> print(markdown_of("See :func:`~a.b`.\n\n>>> [1][0]\n1\n\nEnd.").replace("`" * 3, "---"))
    See `b`.
    <BLANKLINE>
    ---pycon
    >>> [1][0]
    1
    ---
    <BLANKLINE>
    End.
    """
    text = _FORMULA.sub(lambda found: f"<div>{formula(found[1], 'block')}</div>\n", text)
    text = _ROLE.sub(lambda found: _of_role(*found.groups()), text)
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def formula(latex: str, display: str) -> str:
    """Return a formula as browsers draw it without a script; ``display`` is block or inline."""
    known = " ".join(latex.split()).replace(r"\_", "_").replace(r"\arg", r"\operatorname{arg}\,")
    made = latex2mathml.converter.convert(known, display=display)
    if "\\" in made:
        raise ValueError(f"the formula {latex!r} has what latex2mathml does not know: {made}")
    return made


def _of_role(role: str, name: str) -> str:
    """Return what a role shows: a formula, or a name as code, after ``~`` its last part."""
    if role == "math":
        return formula(name, "inline")
    return f"`{_shown(name)}`"


def _shown(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("~") else name.lstrip(".")


class Docstrings(griffe.Extension):
    """Change the docstring of every object that is shown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the text that will be parsed."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)
