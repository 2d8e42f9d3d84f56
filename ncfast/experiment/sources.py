"""Which commit holds a file or a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["newest_commit"]


def newest_commit(path: Path, form: str) -> tuple[str, bool]:
    """Return the newest commit of a file or folder, and whether it is there unchanged since.

    ``("", False)`` where git knows nothing of it, or is not there. ``form`` is how the commit is
    written, as ``git log`` takes it: ``%H``, or ``%h`` in short.

    >>> import tempfile
    >>> newest_commit(Path(tempfile.gettempdir()) / "of-no-repository", "%H")
    ('', False)
    """

    def git(*words: str) -> str | None:
        # No lock of the index: who works there meanwhile is not disturbed.
        started = ["git", "--no-optional-locks", "-C", str(path.parent.absolute())]
        command = [*started, *words, "--", path.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:  # no git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return git("log", "-1", f"--format={form}") or "", git("status", "--porcelain") == ""
