"""How files and command lines are damaged: strategies of hypothesis."""

from __future__ import annotations

import copy
import importlib
from argparse import ArgumentParser
from typing import Any

from hypothesis import strategies as st

ODD = [
    "",
    "\0",
    "\x1b[31m",
    "\ud800",
    "NaN",
    "1e400",
    "-1",
    "9" * 50,
    "\u017f",
    "\u202e",
    '"',
    ",",
    "\t",
]
BITS = st.binary(min_size=0, max_size=12)
PLACES = st.floats(0, 1, exclude_max=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(ODD)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
HOWS = ("flip", "cut", "replace", "insert", "remove", "repeat")


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """Return a file with one to three places damaged."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        at = int(draw(PLACES) * max(1, len(data)))
        end = at + draw(st.integers(1, 40))
        how = draw(st.sampled_from(HOWS))
        if how == "flip" and data:
            turned = data[at] ^ 1 << draw(st.integers(0, 7))
            data = data[:at] + bytes([turned]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at]
        elif how == "repeat":
            data = data[:end] + data[at:end] * draw(st.integers(1, 50)) + data[end:]
        else:
            new = b"" if how == "remove" else draw(BITS)
            data = data[:at] + new + data[at if how == "insert" else end :]
    return data


@st.composite
def changed(draw: Any, document: Any) -> Any:
    """Return a document of JSON of which one to three values are others, or gone."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place, key = None, None
        inside = found
        while isinstance(inside, (dict, list)) and inside and draw(st.integers(0, 5)):
            keys = sorted(inside) if isinstance(inside, dict) else range(len(inside))
            place, key = inside, draw(st.sampled_from(list(keys)))
            inside = inside[key]
        if place is None:
            continue
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
    return found


def toml_of(document: Any) -> str:
    """Write a document as TOML: each value as its line has it, keys that cannot be told quoted."""

    def value(one: Any) -> str:
        if isinstance(one, bool):
            return str(one).lower()
        if isinstance(one, dict):
            return "{" + ", ".join(f"{text(k)} = {value(v)}" for k, v in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(map(value, one)) + "]"
        return text(one) if isinstance(one, str) else "nan" if one is None else repr(one)

    def text(one: str) -> str:
        escaped = "".join(
            c if 32 <= ord(c) < 127 and c not in '"\\' else f"\\U{ord(c):08x}" for c in one
        )
        return f'"{escaped}"'

    return "\n".join(f"{text(k)} = {value(v)}" for k, v in document.items())


def command_line(command: str, subjects: list[str]) -> Any:
    """Return a strategy of words after ``ncfast``: the command's flags with any values."""
    parser = ArgumentParser(add_help=False)
    importlib.import_module(f"ncfast.cli.{command}").add_arguments(parser)
    flags = [a for a in parser._actions if a.option_strings]
    values = st.sampled_from([*ODD, *subjects, "1", "2", "1MB", "gender", "random", "all", "cpu"])
    values |= st.text(max_size=8)

    @st.composite
    def words(draw: Any) -> list[str]:
        given = [command, *draw(st.lists(st.sampled_from(subjects) | values, max_size=3))]
        for action in draw(st.lists(st.sampled_from(flags), max_size=4)):
            given.append(action.option_strings[0])
            if action.nargs != 0:
                choices = [str(c) for c in action.choices or ()]
                given.append(draw(values | st.sampled_from(choices) if choices else values))
        return given

    return words()
