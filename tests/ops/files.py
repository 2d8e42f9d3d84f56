"""Which files hold the tests of an op: what runs them elsewhere takes every one."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
FAR_ROWS = HERE / "test_far_rows.py"
# Tests that go through the ops.
OF_EVERY_OP = (HERE / "test_layouts.py", HERE / "test_backward_alone.py")


def files_of(op: str) -> list[Path]:
    """Return the files of an op's tests: the one that bears its name, and those that go on from it.

    >>> [path.name for path in files_of("linear_cross_entropy")]
    ['test_linear_cross_entropy.py', 'test_linear_cross_entropy_rejected.py']
    """
    return [HERE / f"test_{op}.py", *sorted(HERE.glob(f"test_{op}_*.py"))]
