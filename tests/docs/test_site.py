"""The site: it builds without a warning, asks no other host for anything, is searched from a
folder, and its code runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/pages").rglob("*.md"))
NAV = (ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
sys.path.insert(0, str(ROOT / "docs"))
from run_page import NOTEBOOKS, is_notebook  # noqa: E402


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml"]
    site = tmp_path / "site"
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-d", str(site)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs/pages").with_suffix(".html")).exists(), page
    assert "unc3_std" in (site / "reference/metrics.html").read_text(encoding="utf-8")
    assert "--memory-limit" in (site / "reference/command_line.html").read_text(encoding="utf-8")
    assert "tutorials/measure.html" in (site / "llms.txt").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert f"{name}.ipynb" in (site / f"tutorials/{name}.html").read_text(encoding="utf-8")
        made = json.loads((site / f"tutorials/{name}.ipynb").read_text(encoding="utf-8"))
        assert {cell["cell_type"] for cell in made["cells"]} == {"markdown", "code"}
    losses = (site / "reference/losses.html").read_text(encoding="utf-8")
    assert ">&gt;&gt;&gt; </span>" in losses  # examples are code
    assert not re.search(r":(?:func|class|meth|mod|math):", losses)
    for example in (ROOT / "examples").glob("*.py"):
        shown = (site / f"examples/{example.stem}.html").read_text(encoding="utf-8")
        assert f'href="{example.name}"' in shown
        assert (site / "examples" / example.name).read_bytes() == example.read_bytes()
    assert "<svg" in (site / "tutorials/figure.svg").read_text(encoding="utf-8")
    evidence = (site / "explanation/evidence.html").read_text(encoding="utf-8")
    assert evidence.count("the positive control") >= 1
    assert "findings of" not in evidence
    assert "<!-- " not in (ROOT / "docs/pages/index.md").read_text(encoding="utf-8")
    # Offline: a page asks no other host for anything.
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert 'src="http' not in text, file
        assert '<link rel="stylesheet" href="http' not in text, file
    assert (site / "search/search_index.js").exists()
    found_from_a_folder(site)


# What docs/hooks.py makes while the site is built.
EXAMPLES = "|".join(path.stem for path in (ROOT / "examples").glob("*.py"))
PICTURES = "|".join(path.name for path in (ROOT / "docs/screenshots").glob("*.png"))
GENERATED = re.compile(
    r"results/|reference/(metrics|command_line)\.md|.*_report\.html|.*\.json|report\.png|"
    rf"tutorials/figure\.svg|examples/({EXAMPLES})\.md|screenshots/({PICTURES})"
)


def test_links_lead_to_pages_that_are_there():
    """What mkdocs says of every link and anchor, in the full tier: to build the site is slow."""
    folder = ROOT / "docs/pages"
    links = [(folder / "nav", name) for name in re.findall(r": (\S+\.md)$", NAV, re.MULTILINE)]
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        links += [(page, target) for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)]
    assert len(links) > len(PAGES)
    for page, target in links:
        if "://" not in target:
            path = (page.parent / target).resolve()
            there = path.exists() or GENERATED.match(str(path.relative_to(folder)))
            assert there, f"{page.relative_to(folder)}: {target}"


def found_from_a_folder(site):
    """Search without a server, where a browser is here."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    address = f"file://{site}/index.html?q=within"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120
    )
    assert re.search(r"result__meta[^>]*>\s*\d+ matching documents", done.stdout)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if not is_notebook(page)],
    ids=lambda page: page.stem,
)
def test_every_block_of_a_page_runs(page, tmp_path):
    command = [sys.executable, str(ROOT / "docs/run_page.py"), "--here", str(page)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=290
        )
        # Once in some thirty runs torch 2.13 aborts a rank that has ended its work (gloo, DDP).
        if "Signal 6 (SIGABRT)" not in done.stderr:
            break
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_of_a_notebook_runs(name, tmp_path):
    pytest.importorskip("nbclient")
    command = [sys.executable, str(ROOT / "docs/notebooks.py"), str(tmp_path), "--execute"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--only", name], env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    made = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert any(cell.get("outputs") for cell in made["cells"])


def test_a_page_finds_the_command_where_nothing_is_activated(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\ncommand -v ncfast > found.txt\n```\n")
    command = [sys.executable, str(ROOT / "docs/run_page.py"), "--here", str(page)]
    environment = os.environ | {"PATH": os.defpath}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert Path((tmp_path / "found.txt").read_text().strip()).parent == Path(sys.executable).parent


def test_a_block_that_fails_fails_its_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    command = [sys.executable, str(ROOT / "docs/run_page.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "page.md: 2 blocks" in done.stdout
    assert "FAILED" in done.stdout
    assert "line 8" in done.stdout


@pytest.mark.parametrize(
    ("code", "language", "shown", "ends"),
    [
        ("print('unc3', 0.1234, 12)", "python", "unc3 0.1239 ...", 0),
        ("print('unc3', 0.1234, 12)", "python", "unc3 0.1334 12", 1),
        ("print('unc3', 0.1234, 12)", "python", "unc3 0.1234 13", 1),
        ("echo a; echo b", "sh", "a\nb", 0),
        ("echo a; echo b", "sh", "a", 1),
    ],
)
def test_what_a_page_shows_is_what_its_block_prints(tmp_path, code, language, shown, ends):
    page = tmp_path / "page.md"
    page.write_text(f"# A\n\n```{language}\n{code}\n```\n\nIt says:\n\n```text\n{shown}\n```\n")
    command = [sys.executable, str(ROOT / "docs/run_page.py"), "--here", str(page)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == ends, done.stderr
    assert ("page.md:10: the block before it prints something else" in done.stderr) is bool(ends)


def test_what_a_page_shows_is_what_a_cell_of_its_notebook_prints(monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.syspath_prepend(ROOT / "docs")  # other tests put the path back
    from notebooks import hold_to, notebook_of

    text = (
        """# A\n\n```toml title="a.toml"\na = 1\n```\n\n```sh\nls\n```\n\n```text\na.toml\n```\n"""
    )
    notebook = notebook_of(text)
    written, listed = (cell for cell in notebook.cells if cell.cell_type == "code")
    written.outputs = [nbformat.v4.new_output("stream", name="stdout", text="Writing a.toml\n")]
    listed.outputs = [nbformat.v4.new_output("stream", name="stderr", text="beside it\n")]
    listed.outputs += [nbformat.v4.new_output("stream", name="stdout", text="a.toml\n")]
    hold_to(text, notebook)
    listed.outputs[-1].text = "b.toml"
    with pytest.raises(SystemExit, match="line 12: the cell before it prints something else"):
        hold_to(text, notebook)


@pytest.mark.parametrize("jobs", [[], ["--jobs", "2"]])
def test_pages_are_run_or_left_to_their_notebooks(jobs, tmp_path):
    for name in ("one", "two", "measure"):
        (tmp_path / "tutorials").mkdir(exist_ok=True)
        path = tmp_path / f"tutorials/{name}.md"
        path.write_text(f"```python\nassert {name != 'measure'}\n```\n")
    pages = [str(page) for page in sorted((tmp_path / "tutorials").iterdir())]
    command = [sys.executable, str(ROOT / "docs/run_page.py"), *jobs]
    done = subprocess.run([*command, "--but-notebooks", *pages], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(
        r"one.md: 1 blocks, \d+ s\ntwo.md: 1 blocks, \d+ s\n2 pages, \d+ s of a CPU\n", done.stdout
    )
    done = subprocess.run([*command, *pages], capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 of 3 pages failed: ['measure.md']" in done.stderr
