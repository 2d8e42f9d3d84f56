"""What a reader of the sources meets: docstrings, words, lengths of files and functions, calls."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from ncfast import functional
from tests.test_style import PACKAGE, ROOT, sources


@pytest.mark.parametrize("name", functional.__all__)
def test_docstrings_of_public_functions(name):
    function = getattr(functional, name)
    if not callable(function):
        return
    text = inspect.getdoc(function) or ""
    arguments = text.partition("Args:")[2]
    for argument in inspect.signature(function).parameters:
        assert re.search(rf"^\s+{argument}: ", arguments, re.MULTILINE), f"{name}: {argument}"
    if inspect.signature(function).return_annotation != "None":
        assert "Returns:" in text
    for part in (".. math::", "radients", "Raises:", "Source:", ">>> "):
        assert part in text, f"{name} has no {part}"


OTHER_WORDS = re.compile(r"\b([Ww]anted|must|should|refused?|invalid|illegal|unsupported)\b")


def raised_texts(tree: ast.AST) -> list[str]:
    """Return the texts of every error that a file makes, without what is put into them."""
    raised = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"))
    ]
    return [
        part.value
        for error in raised
        for part in ast.walk(error)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def test_errors_say_what_was_expected_in_one_word():
    """Not "wanted", "must be" or "invalid": what was given; expected what."""
    for path in PACKAGE.rglob("*.py"):
        for text in raised_texts(ast.parse(path.read_text(encoding="utf-8"))):
            found = OTHER_WORDS.search(text)
            assert found is None, f"{path.relative_to(ROOT)}: {found and found.group()}: {text!r}"
    for planted in ("raise ValueError(f'lr={lr}; wanted a', 1)", "return OSError('Wanted: b')"):
        assert any(OTHER_WORDS.search(text) for text in raised_texts(ast.parse(planted)))


# Of the kernels, where each is another word than the field's: tests, Python and C++ say one.
DIALECT = re.compile(
    r"[oO]ctet|suspect|[Ff]inding|complain|slope|RawChoice|refuse|strange|weigh_|grade_"
)


def own_names(text: str, python: bool) -> set[str]:
    """Return the names that a source file uses, comments and texts left out."""
    rest = r'(?s)""".*?"""|"(?:\\.|[^"\\\n])*"|' + (r"#[^\n]*" if python else r"//[^\n]*")
    return set(re.findall(r"[A-Za-z_]\w*", re.sub(rest, " ", text)))


def test_kernels_use_the_words_of_the_field():
    """Device errors, vectors of eight, derivatives, variants, nonfinite, weights."""
    files = [*(PACKAGE / "kernels").glob("*.py")]
    files += [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    for path in files:
        names = own_names(path.read_text("utf-8"), path.suffix == ".py")
        found = sorted(name for name in names if DIALECT.search(name))
        assert not found, f"{path.relative_to(ROOT)}: {found}"
    planted = own_names("auto step = kOctetStep;  // suspect", python=False)
    assert [name for name in sorted(planted) if DIALECT.search(name)] == ["kOctetStep"]
    assert DIALECT.search("clear_findings")


# A term is what a sum is made of: a loss's, or one of numbers that a kernel adds.
TERM = re.compile(r"(?<!sum)_terms?\b|\bterms?_\w|(?<!Vector)(?<!Scalar)Terms?\b|\bTERMS?\b")
OF_NO_LOSS = ("metrics", "kernels", "ops", "functional", "reference", "statistics", "reporting")
OF_NO_LOSS += ("catalogue", "language", "fairness/benchmarks")
TARGET = re.compile(r'target terms?(?!")', re.IGNORECASE)


def test_a_term_is_one_thing():
    """Functions of pairs are functions, and what a benchmark asks about are words."""
    files = [p for room in OF_NO_LOSS for p in (PACKAGE / room).rglob("*.py")]
    files += [*(PACKAGE / "fairness").glob("*.py")]
    files += [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    for path in files:
        text = path.read_text("utf-8")
        found = sorted(n for n in own_names(text, path.suffix == ".py") if TERM.search(n))
        assert not found, f"{path.relative_to(ROOT)}: {found}"
        assert not TARGET.search(text), f"{path.relative_to(ROOT)}: expected 'target word'"
    for name in ("PairTerm", "pair_terms", "term_values", "TERMS"):
        assert TERM.search(name)
    assert not any(TERM.search(name) for name in ("sum_terms", "terms", "VectorTerm", "terminal"))


MOST_FILE_LINES = 300
LONGER = {  # than that: why they are one file all the same
    "csrc/common/pairs.h": "points, tiles of products and distances of a row are used together",
    "csrc/cpu/decisions.h": "one kernel of two ops",
    "csrc/cpu/linear_cross_entropy_backward.cpp": "one kernel, whose panels every step shares",
    "csrc/cuda/pair_stats_backward.cu": "one kernel, whose panels every step shares",
    "csrc/testing/races.cpp": "one shadow memory, and the hooks that write it",
    "ncfast/cli/measure.py": "the flags of a command, and its run",
    "ncfast/kernels/pair_stats.py": "one kernel",
    "ncfast/language/models.py": "one class",
    "ncfast/ranks.py": "one class, and how processes join",
    "ncfast/training/applied.py": "one class, and what its forward pass asks",
    "ncfast/training/lazy_logits.py": "what may be done to logits, op by op",
    "benchmarks/prose.py": "a table of sentences",
    "tests/experiment/test_grid.py": "one grid, run once for all of its tests",
    "tests/fairness/test_known_numbers.py": "a table of published counts",
    "tests/losses/test_cross_entropy.py": "one function, with a table of what it rejects",
    "tests/ops/contract.py": "what every op promises",
    "tests/ops/test_pair_stats.py": "one op, with its definition",
    "tests/test_style.py": "a table of which package imports which",
}


def test_files_have_one_subject():
    """Of more than 300 lines only those that are told above, and each of them is."""
    folders = (ROOT / name for name in ("ncfast", "csrc", "benchmarks", "tools", "tests"))
    suffixes = {".py", ".cpp", ".h", ".cu", ".cuh"}
    files = [p for folder in folders for p in folder.rglob("*") if p.suffix in suffixes]
    lines = {str(p.relative_to(ROOT)): p.read_text("utf-8").count("\n") for p in files}
    longer = {name: n for name, n in lines.items() if n > MOST_FILE_LINES}
    assert not longer.keys() - LONGER.keys(), f"expected at most {MOST_FILE_LINES} lines, or why"
    assert not LONGER.keys() - longer.keys(), "not longer any more: take them off the list"
    assert all(LONGER.values())


MOST_LINES = 60  # of a function's body: a screen

SETTINGS_JOBS = {"ncfast/measure/job.py": "measure", "ncfast/finetune/job.py": "finetune"}


def function_lines(path: Path) -> dict[str, int]:
    """Return the lines of every function's body, docstrings left out."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :] or node.body
            found[node.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    return found


def test_functions_fit_a_screen():
    folders = [PACKAGE, *(ROOT / name for name in ("benchmarks", "tools", "tests/mutants"))]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        found = {k: n for k, n in function_lines(path).items() if n > MOST_LINES}
        assert not found, f"{name}: {found}; expected at most {MOST_LINES} lines each"
        if job := SETTINGS_JOBS.get(name):
            assert function_lines(path)[job] <= 50, name


SKIPPED = re.compile(r"#\s*doctest:.*\+" + "SKIP")  # put together, or this file would be one


def test_every_example_runs():
    for path in sources():
        if path.suffix in (".py", ".md"):
            assert not SKIPPED.search(path.read_text(encoding="utf-8")), path
    assert SKIPPED.search(">>> f()  # doctest: +ELLIPSIS, +" + "SKIP")


HEADED = re.compile(r"^ *Examples?:$", re.MULTILINE)


def test_an_example_has_no_heading():
    for path in PACKAGE.rglob("*.py"):
        assert not HEADED.search(path.read_text(encoding="utf-8")), path
    assert HEADED.search('"""Do.\n\n    Example:\n        >>> do()"""')


MOST_BY_POSITION = 5

# What torch hands on by position: an op's schema, what autograd saves.
OF_TORCH = re.compile(r"^(torch\.ops\.|ctx\.)|\.apply$")


def long_calls(tree: ast.AST) -> list[ast.Call]:
    """Return the calls with more arguments by position than a reader counts."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and sum(not isinstance(a, ast.Starred) for a in node.args) > MOST_BY_POSITION
        and not OF_TORCH.search(ast.unparse(node.func))
    ]


def test_calls_of_many_arguments_name_them():
    """All but those that Triton compiles: there a name costs a line for every tile."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        if path.parent != PACKAGE / "kernels":
            found = [call.lineno for call in long_calls(ast.parse(path.read_text("utf-8")))]
            assert not found, f"{path.relative_to(ROOT)}: lines {found}"
    assert long_calls(ast.parse("f(1, 2, 3, 4, 5, 6)"))
    assert not long_calls(ast.parse("f(1, 2, 3, 4, 5, last=6, *rest)"))
