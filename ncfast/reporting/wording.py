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

DROPPED = {
    "special": "special tokens",
    "unmasked": "not masked, so left as context",
    "last position": "no next token in their block",
    "out of vocabulary": "unknown to the tokenizer or outside the head",
}


def short_name(name: str) -> str:
    """Return the last part of a path; names of other kinds as they are.

    Args:
        name: a model or a text as the user gave it.

    Returns:
        The name to put into a sentence.

    Example:
        >>> short_name("/a/b/my-model/"), short_name("org/model"), short_name("demo:text")
        ('my-model', 'org/model', 'demo:text')
    """
    return name.rstrip("/").rpartition("/")[2] if name[:1] in ("/", ".", "~") else name


def summary(report: Mapping[str, Any]) -> str:
    """Say in one paragraph what was measured.

    Args:
        report: a report document.

    Returns:
        The paragraph, plain text.

    Example:
        >>> summary(report)  # doctest: +SKIP
        'demo:minilm is an encoder without a language-model head ...'
    """
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
    """List what a reader must know before any number.

    Args:
        report: a report document.

    Returns:
        Sentences: the notes of model, text and report, in this order.

    Example:
        >>> warnings({"model": {"notes": ["No head."]}, "text": {}})
        ['No head.']
    """
    return list(dict.fromkeys([*report["model"].get("notes", []), *text_notes(report)]))


def text_notes(report: Mapping[str, Any]) -> list[str]:
    """List what a reader must know about the text and the run.

    Args:
        report: a report document.

    Returns:
        The notes of text and report, each with a capital first letter.

    Example:
        >>> text_notes({"text": {"notes": ["only the start was read"]}})
        ['Only the start was read']
    """
    held = (report.get("held_out") or {}).get("notes", [])
    notes = [*report["text"].get("notes", []), *held, *report.get("notes", [])]
    return [note[:1].upper() + note[1:] for note in dict.fromkeys(notes)]


def findings(report: Mapping[str, Any]) -> list[str]:
    """State for each word set where it stands against its controls.

    Args:
        report: a report document.

    Returns:
        One or two sentences per word set; none for a set with fewer than two classes.

    Example:
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
                    f"{value:.3f}{_against_random(report, section, key, value)}"
                    f"{_against_matched(report, name, key)}."
                )
    return sentences


def published(reference: Mapping[str, Any]) -> str:
    """Say what the published measurements are and which of their columns are not used.

    Args:
        reference: the ``reference`` part of a report or a comparison.

    Returns:
        A paragraph.

    Example:
        >>> published({"name": "a.csv", "rows": 2, "unmapped": {"n_params": "no metric"}})
        'Published: a.csv, 2 rows. Not used: n_params (no metric).'
    """
    reasons: dict[str, list[str]] = {}
    for column, reason in reference["unmapped"].items():
        reasons.setdefault(reason, []).append(column)
    unused = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    text = f"Published: {reference['name']}, {reference['rows']:,} rows."
    return f"{text} Not used: {unused}." if unused else text


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


def methods(report: Mapping[str, Any]) -> list[str]:
    """Say what the intervals, errors and held-out numbers of the table are.

    Args:
        report: a report document.

    Returns:
        Sentences; none for a report without any of them.

    Example:
        >>> methods({"settings": {"pairs": 5000}})[0][:49]
        '± after a value of pairs is its standard error: 5'
    """
    sentences = []
    if boot := report.get("bootstrap"):
        sentences.append(
            f"In brackets: {boot['level']:.0%} intervals, from {boot['repeats']:,} draws of the "
            f"classes with replacement (bootstrap), for {', '.join(boot['sets'])}. They say how "
            "much a value hangs on which words are in the set. Intervals of ratios hold the mean "
            "of the controls fixed. There are none for random controls, whose own spread is given "
            f"(±), nor for {' and '.join(boot['without'])}, nor where no brackets stand."
        )
    if pairs := report.get("settings", {}).get("pairs"):
        sentences.append(
            f"± after a value of pairs is its standard error: {pairs:,} pairs of classes were "
            "drawn in sets that have more; others were visited whole."
        )
    if any(section.get("ratio_to_random") for section in report.get("sets", {}).values()):
        sentences.append(
            "No ratio is given of mean log distances and mean cosines between class means, whose "
            "zero is no amount."
        )
    if held := report.get("held_out"):
        sentences.append(_held_out(held))
    return sentences


def _held_out(held: Mapping[str, Any]) -> str:
    unseen = (
        f" {held['unseen']:,} of them are of classes that never occurred in the measured text."
        if held["unseen"]
        else ""
    )
    sources = " and ".join(map(short_name, held["sources"]))
    bias = "with its bias" if held["bias"] else "without a bias"
    return (
        f"NC4 was measured on held-out text, {sources}: {held['kept']:,} token positions.{unseen} "
        f"Head ({bias}) and nearest class mean both choose among the classes seen in the measured "
        "text."
    )


def dropped_tokens(report: Mapping[str, Any]) -> list[str]:
    """Say how many tokens entered a class and why others did not.

    Args:
        report: a report document.

    Returns:
        One sentence for the kept and one per kind of dropped tokens.

    Example:
        >>> dropped_tokens({"tokens": {"kept": 10, "dropped": {"padding": 3}}})
        ['10 tokens entered a class', '3 did not: padding']
    """
    tokens = report["tokens"]
    return [f"{tokens['kept']:,} tokens entered a class"] + [
        f"{count:,} did not: {DROPPED.get(kind, kind.replace('_', ' '))}"
        for kind, count in tokens["dropped"].items()
        if count
    ]


def dropped_words(section: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group the words a set could not use by the reason.

    Args:
        section: one section of ``sets``.

    Returns:
        reason -> words; empty for sets that are not lists of words.

    Example:
        >>> dropped_words({"words": {"dropped": [{"word": "fiancé", "reason": "3 pieces"}]}})
        {'3 pieces': ['fiancé']}
    """
    reasons: dict[str, list[str]] = {}
    for entry in (section.get("words") or {}).get("dropped", []):
        reasons.setdefault(entry["reason"], []).append(entry["word"])
    return reasons


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List model, text, settings, times and versions as name and value.

    Args:
        report: a report document.

    Returns:
        Pairs ready to print; values that are null are left out.

    Example:
        >>> facts(report)[0]  # doctest: +SKIP
        ('model', 'demo:minilm')
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
