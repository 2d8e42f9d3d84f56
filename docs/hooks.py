"""Pages and parts that mkdocs gets from the code while it builds, so that none goes stale."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ncfast.catalogue import FAMILIES, LETTERS, METRICS
from ncfast.cli import COMMANDS, _parser
from ncfast.experiment import protocol
from ncfast.experiment.schema import protocol_schema
from ncfast.fairness.schema import evaluation_schema
from ncfast.reporting.schema import report_schema
from ncfast.statistics.schema import configuration_schema

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from notebooks import NOTEBOOKS, notebook_of  # noqa: E402
from run_page import run_page  # noqa: E402

PUBLISHED = ("laptop", "laptop-again", "smollm2")
EXPERIMENTS = {name: ROOT / "docs/results" / name for name in PUBLISHED}
RESULTS = ROOT / "benchmarks/results"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCREENSHOTS = ROOT / "docs/screenshots"
TITLES = {"table": "Every op beside its floor", "training": "Training loops"}


def on_config(config: MkDocsConfig) -> None:
    """Name every example, and the page of ``benchmarks.scaling`` once it has been run."""
    [examples] = [entry["Examples"] for entry in config.nav or () if "Examples" in entry]
    examples += [f"examples/{path.stem}.md" for path in EXAMPLES]
    if (RESULTS / "scaling.md").exists():
        [measured] = [entry["Measured"] for entry in config.nav or () if "Measured" in entry]
        measured.insert(1, {"How it scales": "results/scaling.md"})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages, schemas and pictures that lie elsewhere in the repository."""
    for uri, text in {
        "reference/metrics.md": metrics_page(),
        "reference/command_line.md": command_line_page(),
        "reference/report.schema.json": schema_text(report_schema()),
        "reference/evaluation.schema.json": schema_text(evaluation_schema()),
        "reference/protocol.schema.json": schema_text(protocol_schema()),
        "reference/statistics.schema.json": schema_text(configuration_schema()),
        "tutorials/figure.svg": figure_of("own_features"),
        **{f"examples/{path.stem}.md": example_page(path) for path in EXAMPLES},
    }.items():
        files.append(File.generated(config, uri, content=text))
    for path in [*sorted(RESULTS.glob("*.md")), ROOT / "docs/scale.md"]:
        text = path.read_text(encoding="utf-8")
        title = TITLES.get(path.stem, path.stem)
        text = text if text.startswith("# ") else f"# {title}\n\n{text}"
        files.append(File.generated(config, f"results/{path.name}", content=text))
    for uri, path in {
        "report.png": RESULTS / "report.png",
        **{f"screenshots/{path.name}": path for path in sorted(SCREENSHOTS.glob("*.png"))},
        **{f"examples/{path.name}": path for path in EXAMPLES},
        **{f"results/{path.name}": path for path in sorted(RESULTS.glob("scaling_*.svg"))},
        **{f"explanation/{n}_report.html": f / "report.html" for n, f in EXPERIMENTS.items()},
    }.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for name in NOTEBOOKS:
        page = files.get_file_from_path(f"tutorials/{name}.md")
        text = nbformat.writes(notebook_of(page.content_string))
        files.append(File.generated(config, f"tutorials/{name}.ipynb", content=text))
    files.append(File.generated(config, "llms.txt", content=llms_text(files, config)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put what is known elsewhere in the place of its comment."""
    name = page.file.src_uri.removeprefix("tutorials/").removesuffix(".md")
    if name in NOTEBOOKS:
        title, _, rest = markdown.partition("\n")
        markdown = f"{title}\n\n[This page as a notebook]({name}.ipynb)\n{rest}"
    for name, folder in EXPERIMENTS.items():
        if (mark := f"<!-- findings of {name} -->") in markdown:
            markdown = markdown.replace(mark, findings(folder))
    if "<!-- protocol -->" in markdown:
        markdown = markdown.replace("<!-- protocol -->", protocol_tables())
    return markdown


def metrics_page() -> str:
    """Return the page of every metric, from the catalogue."""
    lines = ["# Every metric", "", LETTERS, ""]
    lines += ["What cannot be computed is NaN in the report, with the reason in its notes.", ""]
    for family, asks in FAMILIES.items():
        members = {key: metric for key, metric in METRICS.items() if metric.family == family}
        if not members:
            continue
        lines += [f"## {family}", "", asks, ""]
        lines += ["| key | formula | range | reading |", "|---|---|---|---|"]
        for key, metric in members.items():
            low, high = (f"{end:.4g}" for end in metric.range.ends(1000))
            bounds = f"{low} to {high}" + " (K = 1,000)" * any(
                callable(end) for end in (metric.range.low, metric.range.high)
            )
            reading = " ".join(filter(None, (metric.meaning, metric.direction.capitalize())))
            lines.append(table_row(f"`{key}`", metric.formula or metric.symbol, bounds, reading))
        lines.append("")
    return "\n".join(lines)


def table_row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def command_line_page() -> str:
    """Return the page of every command, from its parser."""
    lines = ["# Command line", ""]
    for name, summary in COMMANDS.items():
        [entry] = [
            action.choices[name]
            for action in _parser([name])._actions
            if isinstance(action.choices, dict)
        ]
        lines += [f"## ncfast {name}", "", f"{summary.capitalize()}.", ""]
        lines += ["```text", entry.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def schema_text(schema: dict[str, Any]) -> str:
    """Return a schema as a file has it."""
    return json.dumps(schema, indent=1) + "\n"


def example_page(path: Path) -> str:
    """Return an example as a page: what it says of itself, the file, its lines."""
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    _, _, code = text.removeprefix('"""').partition('"""\n\n')
    return f"# {path.name}\n\n{said}\n\n[The file]({path.name})\n\n```py\n{code}```\n"


def figure_of(name: str) -> str:
    """Run a tutorial; return the figure that it saves."""
    page, here = ROOT / f"docs/pages/tutorials/{name}.md", Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            run_page(page, Path(folder))
        finally:
            os.chdir(here)
        return (Path(folder) / "figure.svg").read_text(encoding="utf-8")


def protocol_tables() -> str:
    """Return the keys of a protocol, from the classes that read it and their docstrings."""
    lines = []
    for table in ("protocol", "model", "arm", "endpoint", "contrast", "margin", "evaluation"):
        kind = getattr(protocol, table.capitalize())
        head = {"protocol": "At the top", "evaluation": "`[evaluation]`"}.get(table)
        said, _, _ = (kind.__doc__ or "").partition("\n")
        lines += [f"**{head or f'`[[{table}s]]`'}**: {said[0].lower()}{said[1:]}", ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        meant = attributes_of(kind)
        for field in dataclasses.fields(kind):
            if field.name in ("digest", "path"):
                continue  # of the file itself
            default = "may be left out" if table == "protocol" else "required"
            if field.default is not dataclasses.MISSING:
                default = f"`{field.default!r}`"
            elif field.default_factory is not dataclasses.MISSING:
                default = f"`{field.default_factory()!r}`"
            kinds = f"`{field.type}`"
            lines.append(table_row(f"`{field.name}`", kinds, default, meant[field.name]))
        lines.append("")
    return "\n".join(lines)


def attributes_of(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute."""
    _, _, listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.replace("``", "`").split()) for name, text in found}


def findings(folder: Path) -> str:
    """Return the list of what was found, out of a committed report."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("## What was found")
    section, _, _ = rest.partition("\n## ")
    return "\n".join(line for line in section.splitlines()[1:] if not line.startswith("#"))


def llms_text(files: Files, config: MkDocsConfig) -> str:
    """Return the list of pages for programs that read."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for file in sorted(files.documentation_pages(), key=lambda file: file.src_uri):
        title = next(line[2:] for line in file.content_string.splitlines() if line.startswith("# "))
        lines.append(f"- [{title}]({file.url})")
    return "\n".join(lines) + "\n"
