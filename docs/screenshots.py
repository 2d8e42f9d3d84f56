"""Take the pictures of ncfast's own pages: ``python docs/screenshots.py [NAME...]``.

What a picture shows is made first: by a tutorial, run in a new folder as ``run_page.py`` runs it,
or by the command of the README; the report of an experiment is the published one. Chromium or
Chrome then takes the picture. Colours are brought down to 64, and a picture takes some 60 kB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
README = "measure demo:smollm2 demo:text --words gender --max-tokens 20000 --out report --quiet"
WIDTH = 1080
COLOURS = 64


@dataclass(frozen=True)
class Picture:
    """Hold what a picture is of.

    Attributes:
        made_by: a tutorial, the words of an ``ncfast`` command, or "" for what is there.
        shows: the file that is opened, below the folder in which it is made, or of its own.
        height: of the window, in pixels.
        path: of the picture.
    """

    made_by: str
    shows: str
    height: int
    path: Path


PICTURES = {
    "report": Picture(README, "report/report.html", 1140, ROOT / "benchmarks/results/report.png"),
    **{
        name: Picture(page, shows, height, ROOT / f"docs/screenshots/{name}.png")
        for name, page, shows, height in (
            ("comparison", "measure", "side-by-side/compare.html", 1000),
            ("evaluation", "fairness", "two/evaluation.html", 1000),
            ("experiment", "", f"{ROOT}/docs/results/laptop/report.html", 800),
            ("finetuned", "memory", "tuned/compare.html", 1000),
        )
    },
}


def make(picture: Picture, folder: Path) -> None:
    """Make what a picture shows, in a folder."""
    page = ROOT / f"docs/pages/tutorials/{picture.made_by}.md"
    command = [sys.executable, str(ROOT / "docs/run_page.py"), "--here", str(page)]
    if not picture.made_by:
        return
    if not page.exists():
        command = [sys.executable, "-m", "ncfast", *picture.made_by.split()]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def take(picture: Picture, folder: Path, browser: str) -> None:
    """Open what was made in a browser, and write the picture of it."""
    from PIL import Image

    page, shot = folder / picture.shows, folder / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{picture.height}"]
    command = [browser, *flags, f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        if image.size != (WIDTH, picture.height):
            raise SystemExit(f"{browser} made {image.size}; expected {(WIDTH, picture.height)}")
        picture.path.parent.mkdir(exist_ok=True)
        image.convert("RGB").quantize(COLOURS).save(picture.path, optimize=True)


def main() -> None:
    """Take the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        parser.error(f"no picture {sorted(unknown)}; expected some of {', '.join(PICTURES)}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"no browser; expected one of {', '.join(BROWSERS)}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            make(PICTURES[name], Path(folder))
            take(PICTURES[name], Path(folder), browser)
        path = PICTURES[name].path
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
