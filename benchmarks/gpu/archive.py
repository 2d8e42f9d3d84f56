"""Packs what a GPU run has found into three files: a page, one CSV, and an archive of the rest."""

from __future__ import annotations

import csv
import shutil
import tarfile
from pathlib import Path

from .settings import read

__all__ = ["ARCHIVE", "pack"]

ARCHIVE = "run.tar.gz"


def one_table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of every CSV of a run; ``table`` says whose each is."""
    rows = []
    for path in sorted(folder.rglob("*.csv")):
        name = str(path.relative_to(folder).with_suffix(""))
        # What an op's own process wrote is in the table of all, too, unless that was never reached.
        if path.parent == folder or not (folder / f"{path.parent.name}.csv").exists():
            rows += [{"table": name, **row} for row in read([path])]
    return rows


def pack(folder: Path, out: Path) -> None:
    """Write summary.md, results.csv and run.tar.gz of what the phases have written so far.

    Each is whole or not there; earlier ones are replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = one_table(folder)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    new = out / "results.csv.new"
    with open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    new.replace(out / "results.csv")
    if (folder / "summary.md").exists():
        shutil.copy2(folder / "summary.md", out / "summary.md")
    packed = out / f"{ARCHIVE}.new"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, arcname="run")
    packed.replace(out / ARCHIVE)
