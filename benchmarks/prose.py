"""Numbers that stand in sentences of README and site: which stored result each is taken from.

A sentence is written with ``{}`` for each number, here as in its source; a space is any white
space, three points are whatever stands between. ``benchmarks.readme`` puts the numbers of the
sources in, or with ``--check`` says which differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SENTENCES", "Sentence", "numbers_in", "with_numbers"]

ROOT = Path(__file__).parents[1]
_NUMBER = r"([-+]?[\d.,:-]*\d)"
Shape = Callable[..., tuple[str, ...]]


def as_it_is(*numbers: str) -> tuple[str, ...]:
    """Return numbers as the source has them."""
    return numbers


def rounded(digits: int) -> Shape:
    """Return a shape that rounds to so many decimals."""
    return lambda *numbers: tuple(f"{float(n):.{digits}f}" for n in numbers)


@dataclass(frozen=True)
class Sentence:
    """Hold a sentence of a page, and where its numbers are.

    Attributes:
        page: its file, from the repository's root.
        text: the sentence, ``{}`` for each number.
        sources: files and what stands there, ``{}`` for each number; all numbers follow each other.
        shape: makes the page's numbers of the sources'.
    """

    page: str
    text: str
    sources: tuple[tuple[str, str], ...]
    shape: Shape = as_it_is

    def numbers(self) -> tuple[str, ...]:
        """Return the numbers that should stand on the page."""
        found: list[str] = []
        for name, text in self.sources:
            found += numbers_in((ROOT / name).read_text(encoding="utf-8"), text, name)
        return self.shape(*found)


def pattern(text: str) -> re.Pattern[str]:
    """Return what finds a sentence, a group for each number."""
    words = (re.escape(word).replace(r"\{\}", _NUMBER) for word in text.split(" "))
    return re.compile(
        r"\s+".join(".*?" if word == r"\.\.\." else word for word in words), re.DOTALL
    )


def numbers_in(text: str, sentence: str, place: str) -> tuple[str, ...]:
    """Return the numbers of a sentence that stands once in a text.

    >>> numbers_in("It took 7:41\\nminutes.", "took {} minutes", "a page")
    ('7:41',)
    """
    return _only(text, sentence, place).groups()


def with_numbers(text: str, sentence: str, numbers: tuple[str, ...], place: str) -> str:
    """Return the text with other numbers in a sentence of it.

    >>> with_numbers("It took 7:41\\nminutes.", "took {} minutes", ("7:42",), "a page")
    'It took 7:42\\nminutes.'
    """
    match = _only(text, sentence, place)
    for group in range(len(numbers), 0, -1):
        text = text[: match.start(group)] + numbers[group - 1] + text[match.end(group) :]
    return text


def _only(text: str, sentence: str, place: str) -> re.Match[str]:
    found = list(pattern(sentence).finditer(text))
    if len(found) != 1:
        raise ValueError(
            f"{place}: {len(found)} sentences {sentence!r}, expected 1 (a sentence with a number "
            "that was measured changes in benchmarks/prose.py too)"
        )
    return found[0]


_RESULTS = "benchmarks/results/"
_MUTANTS, _LOOP, _BOUNDS = (_RESULTS + n for n in ("mutants.md", "user_loop.md", "cpu_bounds.md"))
_DRAWN, _SCORES = _RESULTS + "large_drawn.md", _RESULTS + "fairness.csv"
_LAPTOP, _AGAIN, _SMOLLM2 = (
    f"docs/results/{name}/report.md" for name in ("laptop", "laptop-again", "smollm2")
)
_SPEED, _STATUS = "docs/pages/explanation/speed.md", "docs/pages/status.md"
_TIERS = (_RESULTS + "test_tiers.md", "|---|--:|--:|--:|--:|---| | {} | {} | {} |")  # the newest
_PLANTED = "{} of {} faults of tests/mutants/table.toml were planted, one at a time: {} killed."
_COLLAPSE = (
    "- (U)NC3 of gender words, ours against none: {} against {} (",
    "- (U)NC3 of gender words, ours against matched: {} against {} (",
)
_TEST = "- {}, ours less {}: {{}} \\[{{}}, {{}}\\] ({{}} seeds; at {} {{}}); p {{}}, by Holm {{}}:"
_GAPS = {base: _TEST.format("bec-gap", base, base) for base in ("none", "matched")}
_CONTROL = "- bec-gap, equalise less none, the positive control: {} \\["
_ROWS: tuple[str, ...] = ("pair_stats", "linear_argmax", "nearest_center", "linear_cross_entropy")
_ROWS += ("within_class_scatter", "between_class_scatter")
_TABLE = "| {} | ratio | |---|--:|--:|--:| {}"
_ROW = "| {} | {{}} | {{}} | {{}} |"
_PRODUCTS = _TABLE.format("op | the op | library", " ".join(map(_ROW.format, _ROWS)))
_FORWARD = _TABLE.format(
    "op | float32 | bfloat16", " ".join(map(_ROW.format, (_ROWS[1], _ROWS[3])))
)
_PERPLEXITY = "- perplexity, ours against none: {} % (8 seeds;"


def _mean(*numbers: str) -> tuple[str, ...]:
    """Of (U)NC3: two reports, each with the term, without, with it, and of words as frequent."""
    ours, none, _, matched = (
        (float(a) + float(b)) / 2 for a, b in zip(numbers[:4], numbers[4:], strict=True)
    )
    return tuple(f"{value:.3f}" for value in (none, ours, matched))


def _all_die(planted: str, of: str, killed: str) -> tuple[str, ...]:
    if not planted == of == killed:
        raise ValueError(f"{_MUTANTS}: {planted} of {of} planted, {killed} killed: not all die")
    return (of,)


def _a_third(killed: str, of: str) -> tuple[str, ...]:
    if 3 * int(killed) != int(of):
        raise ValueError(f"kills.md: {killed} of {of} moments of experiment: not every third")
    return (of,)


def _p(number: str) -> str:
    text = f"{float(number):.3f}" if float(number) < 0.1 else f"{float(number):.2f}"
    return text.removeprefix("0")


def _interval(mean: str, low: str, high: str, *rest: str) -> tuple[str, ...]:
    return (*rounded(3)(mean, low, high), _p(rest[-1]))


def _gap_and_p(*numbers: str) -> tuple[str, ...]:
    first, second = numbers[:7], numbers[7:]
    return (*rounded(3)(first[0]), _p(first[-1]), *rounded(3)(second[0]), _p(second[-1]))


def _mean_and_p(digits: str) -> Shape:
    return lambda mean, *rest: (f"{float(mean):{digits}}", _p(rest[-1]))


SENTENCES = (
    Sentence(
        "README.md",
        "{} minutes in a fresh clone on two quiet cores, nothing cached ({}). ... in {} minutes,",
        (_TIERS,),
        lambda day, quick, rest: (quick, day, rest),
    ),
    Sentence(
        "README.md",
        "Of {} classes in ... built tiny, {} give ... {} are rejected ... {} do not become",
        ((_RESULTS + "families.md", "|--:|--:|--:|--:|--:| | {} | {} | {} | 0 | {} |"),),
    ),
    Sentence(
        "README.md",
        "[{} planted faults](benchmarks/results/mutants.md) all die",
        ((_MUTANTS, _PLANTED),),
        _all_die,
    ),
    Sentence(
        "README.md",
        "BERT-tiny with its masked LM restored, and SmolLM2-135M, gender, {} (95 %",
        ((_SCORES, "bert-tiny-mlm,bec-pro,overall,official,gap,{},{},{},{},{},{} sentences,{} "),),
        lambda *numbers: numbers[-1:],
    ),
    Sentence(
        "README.md",
        "the first model below scores {},",
        ((_SCORES, "bert-tiny-mlm,stereoset,test.gender,arithmetic,icat,{},{},{},{},{},,"),),
        lambda icat, *_: rounded(2)(icat),
    ),
    Sentence(
        "README.md",
        "in 16 of 16 seeds, {} to {} (on words as frequent: {});",
        tuple((report, line) for report in (_LAPTOP, _AGAIN) for line in _COLLAPSE),
        _mean,
    ),
    Sentence(
        "README.md",
        "BEC-Pro's gap against that control: {} [{}, {}], p {};",
        ((_LAPTOP, _GAPS["matched"]),),
        _interval,
    ),
    Sentence(
        "README.md",
        "**eight other seeds**: {} [{}, {}], p {};",
        ((_AGAIN, _GAPS["matched"]),),
        _interval,
    ),
    Sentence(
        "README.md",
        "against plain fine-tuning: {}, p {}, and {}, p {};",
        ((_LAPTOP, _GAPS["none"]), (_AGAIN, _GAPS["none"])),
        _gap_and_p,
    ),
    Sentence(
        "README.md",
        "perplexity {} and {} %, not",
        ((_LAPTOP, _PERPLEXITY), (_AGAIN, _PERPLEXITY)),
        lambda *numbers: tuple(f"{float(n):+.1f}" for n in numbers),
    ),
    Sentence(
        "README.md",
        "the positive control, lowers the gap by {} and",
        ((_LAPTOP, _CONTROL),),
        lambda gap: (gap.lstrip("-"),),
    ),
    Sentence(
        "README.md",
        "(U)NC3 {} to {} (on words 1.17 times as frequent: {}), perplexity {} %, within 3 %;",
        (*((_SMOLLM2, line) for line in _COLLAPSE), (_SMOLLM2, _PERPLEXITY)),
        lambda ours, none, _, matched, cost: (
            *rounded(3)(none, ours, matched),
            f"{float(cost):+.1f}",
        ),
    ),
    Sentence(
        "README.md",
        "WinoBias against that control, {} [{}, {}] nats of {}, p {};",
        ((_SMOLLM2, _TEST.format("winobias", "matched", "matched")),),
        lambda mean, low, high, _, at, __, holm: (*rounded(3)(mean, low, high, at), _p(holm)),
    ),
    *(
        Sentence(
            "README.md",
            text,
            ((_SMOLLM2, _TEST.format(name, "none", "none")),),
            _mean_and_p(digits),
        )
        for text, name, digits in (
            ("plain fine-tuning: WinoBias {}, p {},", "winobias", "+.3f"),
            ("StereoSet {} points, p {},", "stereoset-ss", "+.1f"),
            ("BEC-Pro's gap {}, p {}. - So", "bec-gap", "+.3f"),
        )
    ),
    Sentence(
        _STATUS,
        "yes: {} of {} (`benchmarks/results/mutants.md`)",
        ((_MUTANTS, _PLANTED),),
        lambda done, of, killed: (killed, of),
    ),
    Sentence(
        _STATUS,
        "at every third of experiment's {}:",
        ((_RESULTS + "kills.md", "| experiment | {} | {} |"),),
        _a_third,
    ),
    Sentence(
        _STATUS,
        "yes: {} and {} minutes (`benchmarks/results/test_tiers.md`)",
        (_TIERS,),
        lambda _, quick, rest: (quick, rest),
    ),
    Sentence(
        _STATUS,
        "but for this one: {} (",
        ((_BOUNDS, _PRODUCTS),),
        lambda *numbers: (max(numbers[14::3], key=float),),
    ),
    Sentence(
        _STATUS,
        "yes: {}, whole commands (`benchmarks/results/user_loop.md`)",
        ((_LOOP, "| loop, with logits | {} | {} | {} | {} |"),),
        lambda _, whole, *__: (whole,),
    ),
    Sentence(_STATUS, "yes: {} s from a cold file", ((_DRAWN, "1,000,000 drawn pairs: {} s"),)),
    Sentence(
        _STATUS,
        "yes: {} GB; metrics read",
        ((_RESULTS + "large_statistics.md", "what it maps included: {} GB"),),
        rounded(1),
    ),
    Sentence(
        _SPEED,
        "takes longer ({} ms) than the op does ({}, one thread; ... in order takes {}.",
        ((_BOUNDS, "| float32, 1 threads | {} | {} | {} | {} |"),),
        lambda op, gather, _, in_order: (gather, op, in_order),
    ),
    Sentence(
        _SPEED,
        "Of bfloat16 rows the gather takes {} ms and the op {}:",
        ((_BOUNDS, "| bfloat16, 1 threads | {} | {} |"),),
        lambda op, gather: (gather, op),
    ),
    Sentence(
        _SPEED,
        "reads {} times as many tokens ... {} times in the pass ... statistics take {} % of",
        ((_LOOP, "| loop, with logits | {} | {} | {} | {} |"), (_LOOP, "statistics take {} % of")),
        lambda _, whole, __, one_pass, share: (whole, one_pass, share),
    ),
    Sentence(
        _SPEED,
        "**Scatters** reach 1 / {} of the faster library's rate of products; `pair_stats`, "
        "`linear_argmax`, `nearest_center` and the loss 1 / {} to 1 / {}.",
        ((_BOUNDS, _PRODUCTS),),
        lambda *numbers: (
            max(numbers[14::3], key=float),
            min(numbers[2:12:3], key=float),
            max(numbers[2:12:3], key=float),
        ),
    ),
    Sentence(
        _SPEED,
        "takes {} to {} of float32's time forward.",
        ((_BOUNDS, _FORWARD),),
        lambda *numbers: (min(numbers[2::3], key=float), max(numbers[2::3], key=float)),
    ),
    Sentence(
        _SPEED,
        "{} s became {} ([measured](../results/large_drawn.md), cold file)",
        ((_RESULTS + "large.md", "drawn pairs: {} s"), (_DRAWN, "drawn pairs: {} s")),
        lambda before, after: (f"{float(before):.0f}", after),
    ),
    Sentence(
        "docs/pages/explanation/evidence.md",
        "takes (U)NC3 from {} to {}, as far as",
        (("docs/results/laptop/README.md", "falls from {} to {};"),),
    ),
)
