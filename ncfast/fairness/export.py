"""The same items as tasks of lm-evaluation-harness: YAML over local JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from ..reporting import write_atomically
from .benchmarks import make
from .data import DataFolder
from .errors import EvaluationError
from .selection import select_benchmarks
from .settings import Settings

__all__ = ["export_lm_eval"]

# An empty context makes the harness condition the first token on its prefix token, as we do on BOS.
TASK = """\
task: ncfast_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: false
metadata:
  version: 1
  note: >-
    acc is the share of items whose first choice, {first}, has the highest summed log-probability.
"""


def export_lm_eval(settings: Settings, folder: Path) -> list[Path]:
    """Write each benchmark's items as a multiple-choice task for causal models.

    ``on``, ``data`` and ``attribute`` of the settings say which items.
    """
    for name in settings.on:
        if name != "all" and make(name).first_choice is None:
            raise EvaluationError(f"--export: the items of {name} are no choices among whole texts")
    written: list[Path] = []
    # What a run would score: nothing about another attribute.
    selection = select_benchmarks(settings, DataFolder(settings.data))
    for entry in selection.skipped:
        if entry["benchmark"] in settings.on:
            raise EvaluationError(f"--export: {entry['benchmark']}: {entry['reason']}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in selection.chosen.items():
        benchmark = chosen.benchmark
        if benchmark.first_choice is None:
            continue
        lines = [json.dumps(choice) for choice in benchmark.choices(chosen.items)]
        slug = name.replace("-", "_")
        texts, task = folder / f"{slug}.jsonl", folder / f"{slug}.yaml"
        write_atomically(texts, "\n".join(lines) + "\n")
        path = json.dumps(str(texts.resolve()))
        write_atomically(task, TASK.format(name=slug, path=path, first=benchmark.first_choice))
        written += [task, texts]
    if not written:
        raise EvaluationError(f"--export: no benchmark of choices is below {settings.data}")
    return written
