"""Files and folders that a crash or a power cut leaves either as they were or whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

__all__ = ["remove_partial", "replace", "require_folder", "sync"]


def require_folder(folder: str | os.PathLike[str]) -> None:
    """Raise where a folder could not be written, before the work that would be written there.

    Args:
        folder: it may not exist yet; nothing is made.

    Raises:
        OSError: it, or the nearest folder above it that exists, is no folder or not writable.

    Example:
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
    """Remove what a run that was killed while saving left in its folder.

    Args:
        folder: the folder of the run; no other run may be writing there.

    Example:
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
    """Put what a file or a folder holds on the disk.

    Args:
        path: the file, or the folder; not every system lets a folder be opened, and there nothing
            is done for one.

    Raises:
        OSError: it cannot be opened or written.

    Example:
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

    A folder's files must be synced before; the rename reaches the disk too.

    Args:
        written: a file, or a folder, beside its place.
        place: the name it gets; a folder there must be empty or not exist.

    Raises:
        OSError: the disk is full or fails; what had the name before is untouched.

    Example:
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
