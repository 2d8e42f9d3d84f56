"""The page: nothing from outside, nothing broken by words, no error in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ncfast.reporting import render_page, write_report
from ncfast.reporting.axes import Axis, spanning_axis
from ncfast.reporting.plots import DistributionRow, Point, plot_distributions, plot_points

NASTY_TEXT = '<script>alert("x")</script>|*_`&'
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Outline(HTMLParser):
    """Check that elements close in order; collect ids, references and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.references, self.addresses, self.scripts = [], [], [], [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.ids.append(values["id"])
        self.references += (values.get("aria-labelledby") or "").split()
        self.references += [v[1:] for k, v in attributes if k == "href" and v.startswith("#")]
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "srcset")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    """Return the outline of a page whose elements all close."""
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def svgs(page: str) -> list[str]:
    """Return the drawings of a page."""
    return re.findall(r"<svg.*?</svg>", page, flags=re.S)


def test_the_page_is_whole_and_needs_nothing_else(report):
    page = render_page(report)
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)
    assert all(a.startswith(("#", "data:")) for a in found.addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page


def test_words_cannot_become_markup(report):
    page = render_page(report)
    assert outline(page).scripts == 1
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_first_words_say_what_was_measured(report):
    text = re.sub(r"<style>.*?</style>", "", render_page(report), flags=re.S)
    text = re.sub(r"<[^>]+>", " ", text)
    assert "no language-model head" in text[:600]
    for part in ("30,522", "190,000", "demo:text", "centred"):
        assert part in text[:1800]


def test_every_drawing_is_sound_and_has_words(report):
    drawings = svgs(render_page(report))
    assert len(drawings) == 6
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.find("title").text
        assert root.find("desc").text
        assert "nan" not in re.sub(r"<(title|desc).*?</\1>", "", drawing)


def test_a_set_without_words_or_controls_is_drawn_too(report):
    sets = report["sets"]
    bare = {
        "vocabulary": sets["vocabulary"],
        "gender": {**sets["gender"], "per_class": [], "groups": {}},
    }
    del bare["gender"]["random_controls"], bare["gender"]["ratio_to_random"]
    outline(render_page({**report, "sets": bare}))
    outline(render_page({**report, "sets": {"vocabulary": sets["vocabulary"]}}))


def test_equal_values_still_have_an_axis():
    axis = spanning_axis([0.0, 0.0], 0, 100)
    assert axis.low < 0 < axis.high
    assert spanning_axis([5.0], 0, 100, log=True).at(5.0) == pytest.approx(50)
    with pytest.raises(ValueError, match="cannot run from 1 to 1"):
        Axis(1, 1, 0, 1)


@pytest.mark.parametrize("span", [(0, 1), (-0.3, 0.41), (1e-7, 3e-7), (0, 123456)])
def test_ticks_are_few_and_inside(span):
    ticks = Axis(*span, 0, 1).ticks()
    assert 3 <= len(ticks) <= 9
    assert all(span[0] - 1e-12 <= t <= span[1] + 1e-12 for t in ticks)


def test_plots_of_nothing_are_nothing():
    empty = DistributionRow("a", [0, 1], [0], {}, "whole")
    assert plot_distributions("p", "t", "d", [empty], "x") == ""
    assert plot_points("p", "t", "d", [Point(0, "zero", "words", y=1)], ("x", "y")) == ""


def find_browser() -> str:
    """Return the browser of this machine, or skip."""
    for name in ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium or google-chrome to open the page with")


def open_page(browser: str, page: Path) -> tuple[str, list[str]]:
    """Return what a page shows once its script has run, and what the browser complains of."""
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={page.parent / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_opens_the_page_without_a_complaint(report, tmp_path):
    browser = find_browser()
    write_report(report, tmp_path)
    # The added lines sort a column and filter the words, and write what they saw into the page.
    probe = """<script>
      document.querySelectorAll("table.sortable thead button")[4].click();
      const shown = [...document.querySelectorAll("table.sortable tbody tr")];
      const cosines = shown.map(row => Number(row.cells[4].dataset.value));
      const known = cosines.filter(value => !Number.isNaN(value));
      const rising = known.every((value, i) => i === 0 || known[i - 1] <= value);
      const field = document.querySelector("input[data-filter]");
      field.value = "alert"; field.dispatchEvent(new Event("input"));
      const left = shown.filter(row => !row.hidden).length;
      document.title = `rising=${rising} left=${left} last=${cosines.at(-1)}`;
    </script>"""
    page = tmp_path / "report.html"
    page.write_text(page.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    shown, complaints = open_page(browser, page)
    assert "<title>rising=true left=1 last=NaN</title>" in shown
    assert complaints == []


def test_a_narrow_page_hides_no_dot_and_says_where_it_scrolls(report, tmp_path):
    browser = find_browser()
    write_report(report, tmp_path)
    probe = """<script>
      document.body.style.width = "360px"; dispatchEvent(new Event("resize"));
      const inside = shape => {
        const box = shape.getBoundingClientRect();
        return box.width > 0 && box.left >= 0 && box.right <= 360;
      };
      const dots = [...document.querySelectorAll("svg circle, svg rect")];
      const labels = [...document.querySelectorAll("svg text")];
      const boxes = [...document.querySelectorAll(".scroll")];
      const wide = boxes.filter(box => box.scrollWidth > box.clientWidth + 1);
      const told = wide.filter(box => box.previousElementSibling.matches(".hint.needed"));
      document.title = [dots.length > 100, dots.filter(d => !inside(d)).length,
        labels.filter(l => !inside(l)).length, wide.length > 1, wide.length - told.length].join();
    </script>"""
    page = tmp_path / "report.html"
    page.write_text(page.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    shown, complaints = open_page(browser, page)
    assert "<title>true,0,0,true,0</title>" in shown, shown[shown.index("<title") :][:80]
    assert complaints == []
