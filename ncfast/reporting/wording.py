"""The sentences of a report: what was measured, what stands out, what was left out.

Every sentence states numbers that are in the report; none says what they mean for fairness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KINDS = {
    "masked": "masked language model",
    "causal": "causal language model",
    "encoder": "encoder without a language-model head",
}

LABELS = {
    "masked": "every measured token was hidden behind the mask token, and its class is the word "
    "piece that stood there",
    "self": "the class of a position is the word piece that stands there, visible to the model",
    "next": "the class of a position is the word piece that follows it",
}

CENTERS = {
    "classes": "each set is centred on the mean of its own class means",
    "tokens": "each set is centred on its class means weighted by their counts",
    "all": "every set is centred on the mean over all classes seen",
    "none": "nothing is centred",
}


def short_name(name: str) -> str:
    """Return the last part of a path; names of other kinds as they are.

    >>> short_name("/a/b/my-model/"), short_name("org/model"), short_name("demo:text")
    ('my-model', 'org/model', 'demo:text')
    """
    return name.rstrip("/").rpartition("/")[2] if name[:1] in ("/", ".", "~") else name


def summary(report: Mapping[str, Any]) -> str:
    """Say in one paragraph what was measured."""
    model, settings, sets = report["model"], report["settings"], report["sets"]
    whole = sets["vocabulary"]
    kind = KINDS.get(model["kind"], model["kind"])
    article = "an" if kind[0] in "aeiou" else "a"
    labels = LABELS.get(settings["labels"], f"labels: {settings['labels']}")
    return (
        f"{short_name(model['name'])} is {article} {kind} with features of "
        f"{model['hidden_size']:,} numbers and a vocabulary of {model['vocab_size']:,} word "
        "pieces, each of them a class. "
        f"{report['tokens']['kept']:,} token positions of {_sources(report)} were measured "
        f"and {whole['classes_present']:,} of the classes were seen"
        f"{_rare(whole)}. "
        f"{_features(model)}; {labels}; "
        f"{CENTERS.get(settings['center'], settings['center'])}. "
        "Neural collapse is the state in which all occurrences of a word share one feature "
        "vector, these class means spread evenly, and each points along its own row of the head."
    )


def _rare(section: Mapping[str, Any]) -> str:
    once = section.get("classes_seen_once")
    if not once:
        return ""
    return f", {once:,} of them only once, so that one token is their mean and their variance is 0"


def _features(model: Mapping[str, Any]) -> str:
    if model["kind"] == "encoder":
        return (
            "Features are its last hidden states, and the rows of its input word embeddings take "
            "the place of an output head"
        )
    return "Features are what the output head multiplies"


def _sources(report: Mapping[str, Any]) -> str:
    sources = [short_name(source) for source in report["text"]["sources"]]
    if len(sources) > 3:
        return f"{sources[0]}, {sources[1]} and {len(sources) - 2} more texts"
    return " and ".join(sources) or "the text"


def warnings(report: Mapping[str, Any]) -> list[str]:
    """List what a reader must know before any number: notes of model, text and report.

    >>> warnings({"model": {"notes": ["No head."]}, "text": {}})
    ['No head.']
    """
    return list(dict.fromkeys([*report["model"].get("notes", []), *text_notes(report)]))


def text_notes(report: Mapping[str, Any]) -> list[str]:
    """List the notes of text and report, each with a capital first letter.

    >>> text_notes({"text": {"notes": ["only the start was read"]}})
    ['Only the start was read']
    """
    held = (report.get("held_out") or {}).get("notes", [])
    notes = [*report["text"].get("notes", []), *held, *report.get("notes", [])]
    return [note[:1].upper() + note[1:] for note in dict.fromkeys(notes)]


def findings(report: Mapping[str, Any]) -> list[str]:
    """State in a sentence or two where each word set of two classes stands against its controls.

    >>> findings({"sets": {}})
    []
    """
    sentences = []
    for name, section in report["sets"].items():
        if section["kind"] != "words":
            continue
        for key, what in (
            ("nc3_mean", "the mean cosine between class means and head rows"),
            ("unc3_std", "the spread of these cosines, (U)NC3,"),
        ):
            value = section["metrics"].get(key)
            if value is not None:
                sentences.append(
                    f"{name} ({section['classes_present']:,} classes seen): {what} is "
                    f"{value:.3f}{_interval(report, section, key)}"
                    f"{_against_random(report, section, key, value)}"
                    f"{_against_matched(report, name, key)}."
                )
    return sentences


def _interval(report: Mapping[str, Any], section: Mapping[str, Any], key: str) -> str:
    low, high = section.get("intervals", {}).get(key) or (None, None)
    if low is None or high is None:
        return ""
    return f" ({report['bootstrap']['level']:.0%} interval {low:.3f} to {high:.3f})"


def _against_random(
    report: Mapping[str, Any], section: Mapping[str, Any], key: str, value: float
) -> str:
    controls = section.get("random_controls")
    if not controls:
        return ""
    values = [report["sets"][name]["metrics"].get(key) for name in controls["names"]]
    if any(v is None for v in values):
        return ""
    low, high = min(values), max(values)
    place = "below" if value < low else "above" if value > high else "inside"
    return (
        f", {place} the range of {len(values)} random sets of as many words "
        f"({low:.3f} to {high:.3f})"
    )


def _against_matched(report: Mapping[str, Any], name: str, key: str) -> str:
    for other in report["sets"].values():
        if other["kind"] == "matched" and other["of"] == name:
            value = other["metrics"].get(key)
            return "" if value is None else f"; words of matched frequency have {value:.3f}"
    return ""


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List model, text, settings, times and versions as name and value, less those that are
    null.
    """
    pairs: list[tuple[str, Any]] = []
    for part in ("model", "text", "settings", "held_out", "bootstrap", "timing", "versions"):
        for key, value in (report.get(part) or {}).items():
            if key != "notes" and value is not None:
                pairs.append((f"{part} {key}".replace("_", " "), value))
    pairs += [("command", report.get("command")), ("written", report.get("created"))]
    return [(name, _plain(value)) for name, value in pairs if value not in (None, [], {}, "")]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def time_text(seconds: float) -> str:
    """Write a time in seconds, milliseconds or microseconds.

    >>> time_text(1.5), time_text(0.0123), time_text(4e-5)
    ('1.50 s', '12.3 ms', '40.0 us')
    """
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"
