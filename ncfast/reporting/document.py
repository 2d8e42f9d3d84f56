"""The report document: its schema, strict JSON, and files that are never half-written.

``report.json`` holds one object, schema ``ncfast-report/1``. Everything else (the Markdown tables,
the HTML page, the printed table) is drawn from this object alone, so a report can be drawn again
from its JSON without the model, the text or torch.

===========  ====================================================================================
key          content
===========  ====================================================================================
schema       ``"ncfast-report/1"``
created      time of writing, ISO 8601 with offset
command      the command line that made it, or null
versions     {ncfast, torch, transformers, python}
model        {name, kind, hidden_size, vocab_size, tied, bias, softcap, parameters, notes}
text         {sources, documents, tokens, fingerprint, notes}
settings     {labels, mask_passes, mask_rate, center, preset, definitions, policy, dtype,
             batch_size, block_size, max_tokens, controls, pairs, seed, device, threads}
tokens       {kept, dropped: {kind: how many}}
timing       {seconds, tokens, tokens_per_second, forward_seconds, statistics_seconds,
             statistics_share, saving_seconds, metrics_seconds, bootstrap_seconds,
             held_out_seconds}
sets         {name: section}; names are ``vocabulary``, each word set, and its controls as
             ``SET/random-1``..., ``SET/matched``
bootstrap    how the intervals were made: {repeats, level, seed, sets, without}, or null
held_out     the text NC4 was measured on: {sources, documents, tokens, fingerprint, kept, dropped,
             unseen, overlap, bias, notes}, or null
layers       {count, width, head (``lens`` or ``none``), final_norm, points: [{layer, sets: {set:
             {key: value}}}]}; only where layers were asked for. Keys that are undefined, or need a
             scatter, are left out
reference    published measurements laid beside the vocabulary's, see
             ``ncfast.reporting.reference``, or null
notes        list of sentences about the whole report
undefined    {path: how many values were NaN or infinite}; such values are null
===========  ====================================================================================

A section of ``sets`` has: kind (``vocabulary``, ``words``, ``random``, ``matched``), of (the word
set a control belongs to, or null), metrics {key: number or null}, notes {key: reason}, intervals
{key: [low, high]} (bootstrap over classes; empty where none was made), standard_errors {key:
number} (where pairs were drawn), classes_requested, classes_present, classes_seen_once, tokens,
words {kept, dropped, ambiguous, policy} or null, seen {occurrences, measured, share} or null,
distributions {name: {edges, counts, quantiles, undefined}} (``cosines``, ``norms``,
``head_norms``; of pairs ``pair_log_distance`` and ``pair_cosine`` with coincident and outside in
place of undefined), groups {group: {classes, tokens, cosine_mean, norm_mean}}, per_class (list of
{id, word, words, groups, count, rank, cosine, norm, head_norm, seen_share}) or null, rank_counts
([[rank, count], ...], vocabulary only). Word sets that have random controls also carry
random_controls {names, mean, std, distributions of all of them together}, ratio_to_random {key:
value / mean of the random controls} and ratio_to_random_intervals (the set's intervals over that
mean, which is held fixed); those with a matched control, ratio_to_matched.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import durable_file
from .checks import found
from .schema import check_report

SCHEMA = "ncfast-report/1"

# What a repeated or resumed run may change; everything else is a function of model, text, settings.
CIRCUMSTANCES = ("created", "command", "timing")


def strict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a report into strict JSON values: NaN and infinities become null and are listed.

    Numbers may be Python, NumPy or zero-dimensional torch values. A metric that became null has a
    note in its section; any other such value is counted under ``undefined``. A value without a
    place in JSON is a TypeError.

    >>> strict({"timing": {"seconds": float("nan")}})["undefined"]
    {'timing.seconds': 1}
    """
    undefined: dict[str, int] = dict(report.get("undefined") or {})
    cleaned = _clean({k: v for k, v in report.items() if k != "undefined"}, "", undefined)
    for section in cleaned.get("sets", {}).values():
        for key, value in section.get("metrics", {}).items():
            if value is None:
                section.setdefault("notes", {}).setdefault(key, "undefined for these classes")
    cleaned["undefined"] = undefined
    return cleaned


def _clean(value: Any, path: str, undefined: dict[str, int]) -> Any:
    if isinstance(value, str):
        return _encodable(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {
            _encodable(str(k)): _clean(v, f"{path}.{k}" if path else str(k), undefined)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_clean(item, path + "[]", undefined) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and torch values, of any dimension
        return _clean(value.tolist(), path, undefined)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        undefined[path] = undefined.get(path, 0) + 1
        return None
    raise TypeError(f"{path}: a {type(value).__name__} cannot be stored in a report")


def _encodable(text: str) -> str:
    r"""Escape what UTF-8 has no way to write: a file name of raw bytes must not cost a report."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogateescape" if _is_name(text) else "backslashreplace")
        return raw.decode("utf-8", "backslashreplace")
    return text


def _is_name(text: str) -> bool:
    """Tell whether every lone surrogate is how Python spells a byte of a file name."""
    return not any("\ud800" <= character < "\udc80" for character in text) and not any(
        "\udd00" <= character <= "\udfff" for character in text
    )


def measured(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a report that model, text and settings decide: a shallow copy.

    Two runs of the same measurement, interrupted or not, agree on it to the last digit;
    ``created``, ``command`` and ``timing`` are left out.

    >>> sorted(measured({"schema": SCHEMA, "timing": {}}))
    ['schema']
    """
    return {key: value for key, value in report.items() if key not in CIRCUMSTANCES}


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that a crash or a full disk leaves either the old file or the new one.

    Its folder must exist; text is written as UTF-8.
    """
    path = Path(path)
    payload = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    # One fixed name: a run killed while writing leaves at most one such file, used again later.
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(payload)
        durable_file.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_report(report: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md`` and, last, ``report.json``, whose path is returned.

    The folder is made if missing. Where ``report.json`` is, the report is complete.
    """
    from .report_tree import render_markdown, render_page

    report = strict(report)
    return write_document(folder, "report", report, render_markdown(report), render_page(report))


def write_document(
    folder: str | os.PathLike[str],
    name: str,
    document: Mapping[str, Any],
    markdown: str,
    page: str,
) -> Path:
    """Write a document as ``NAME.html``, ``NAME.md`` and, last, ``NAME.json``.

    Where a file cannot be written (an OSError), what was there before is untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / f"{name}.html", page)
    write_atomically(folder / f"{name}.md", markdown)
    write_atomically(folder / f"{name}.json", text + "\n")
    return folder / f"{name}.json"


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a report back, from ``report.json`` or the folder that holds it.

    Raises OSError where it cannot be read, and ValueError, naming file and key, where it is no
    report of this schema or a key is missing or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "report.json"
    if path.exists() and not path.is_file():  # a FIFO would wait for ever
        raise ValueError(f"{path} is no file; expected a report")
    try:
        report = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path}: not a report (its JSON is nested too deeply)") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"{path}: not a report (not valid JSON: {error})") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: not a report of schema {SCHEMA}, its schema is {found(schema)}")
    try:
        check_report(report)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return report
