"""Files and folders that a crash or a power cut leaves either as they were or whole."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

__all__ = ["claim", "releases_claims", "remove_partial", "replace", "require_folder", "sync"]

Given = ParamSpec("Given")
Result = TypeVar("Result")


class _Claims(threading.local):
    """Hold, for each job of a thread that is running, the folders it claimed, as open files."""

    def __init__(self) -> None:
        self.jobs: list[list[int]] = []


_claims = _Claims()


def releases_claims(job: Callable[Given, Result]) -> Callable[Given, Result]:
    """Make a job that gives back, when it ends, the folders that it claimed.

    >>> import tempfile
    >>> releases_claims(claim)(tempfile.mkdtemp())
    True
    """

    @functools.wraps(job)
    def run(*arguments: Given.args, **named: Given.kwargs) -> Result:
        _claims.jobs.append([])
        try:
            return job(*arguments, **named)
        finally:
            for opened in _claims.jobs.pop():
                _release(opened)

    return run


def claim(folder: str | os.PathLike[str]) -> bool:
    """Let no other run write into a folder that exists before the job around this call ends.

    The system forgets the claim of a process that is killed, and nothing is left in the folder. It
    is not claimed on Windows, nor where the file system cannot lock a folder (NFS): False.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> @releases_claims
    ... def first():
    ...     claim(folder)
    ...     return releases_claims(claim)(folder)
    >>> first()
    Traceback (most recent call last):
    BlockingIOError: [Errno 11] another run is writing there; ...
    >>> releases_claims(claim)(folder)
    True
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    opened = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        said = "another run is writing there; wait for it, or choose another folder"
        raise BlockingIOError(errno.EAGAIN, said, str(folder)) from None
    except OSError:  # a file system that locks no folder
        os.close(opened)
        return False
    _claims.jobs[-1].append(opened)
    return True


def _release(opened: int) -> None:
    import fcntl

    fcntl.flock(opened, fcntl.LOCK_UN)  # a child that was forked, and lives on, shares the lock
    os.close(opened)


def require_folder(folder: str | os.PathLike[str]) -> None:
    """Raise an OSError where a folder, there yet or not, could not be written, before work is done.

    >>> require_folder("some/new/folder")
    """
    place = Path(folder)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"cannot write: {place} is no folder", str(folder))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot write", str(folder))


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what a run that was killed while saving left in its folder; no other may write there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".report.json.partial").touch()
    >>> remove_partial(folder)
    >>> list(folder.iterdir())
    []
    """
    for found in Path(folder).glob(".*.partial*"):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink()


def sync(path: str | os.PathLike[str]) -> None:
    """Put what a file, or a folder where the system lets one be opened, holds on the disk.

    >>> sync(".")
    """
    if os.name != "posix" and os.path.isdir(path):
        return
    # Elsewhere than on POSIX only a handle that may write can be synced.
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(written: str | os.PathLike[str], place: str | os.PathLike[str]) -> None:
    """Give what is written its name, once all of it is on the disk; what had the name is gone.

    A file, or a folder beside its place, whose files are synced; a folder there must be empty. The
    rename reaches the disk too. Where the disk fails, what had the name before is untouched.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / ".new").write_text("whole")
    >>> replace(folder / ".new", folder / "file")
    >>> [path.name for path in folder.iterdir()]
    ['file']
    """
    sync(written)
    os.replace(written, place)
    sync(Path(place).parent)
