"""``python -m benchmarks.readme [--check]``: write numbers of README and site out of the results.

The table of ops stands between two comments in README.md, that of fairness under its head; numbers
in sentences are those of ``benchmarks/prose.py``. ``--check`` changes nothing and fails where
something is not what the results say.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import fairness_scores, prose
from .table import read_rows

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- written by python -m benchmarks.readme -->", "<!-- end -->"

# What a reader chooses between: our op, what it is for, the peer, and the peer in words.
COMPARED = (
    ("linear_cross_entropy forward and backward", "", "torch", "the plain loss in torch"),
    (
        "linear_cross_entropy forward and backward",
        "",
        "torch_fused",
        "torch's `F.linear_cross_entropy`",
    ),
    (
        "linear_cross_entropy forward and backward",
        "",
        "cut_cross_entropy",
        "`torch.compile` of it (cut-cross-entropy's path for CPUs)",
    ),
    ("accumulate_class_moments_", "", "torch", "`index_add_`, sums only"),
    ("accumulate_class_moments_", "", "predecessor", "the paper's one-hot products"),
    ("pair_stats", "D=768", "torch", "torch, in blocks of rows"),
    ("pair_stats", "D=256", "predecessor", "the paper's grid of pairs"),
    ("alignment forward and backward", "", "torch", "torch"),
    ("nearest_center and linear_argmax", "", "torch", "torch, in blocks"),
)


def render(results: Sequence[Mapping[str, str]], training: Sequence[Mapping[str, str]]) -> str:
    """Return the table: each op beside one peer, two threads, float32; then the training loops."""
    lines = [
        "| op | beside | time | times faster | extra memory |",
        "|---|---|--:|--:|--:|",
    ]
    runs = set()
    for op, size, peer, words in COMPARED:
        ours = find(results, op, size, "cpu")
        theirs = find(results, op, ours["size"], peer)
        runs.add(ours["run"].partition(";")[0])
        ratio = float(theirs["median_ms"]) / float(ours["median_ms"])
        cells = (
            f"`{op.split()[0]}`{' and backward' * ('backward' in op)}, {ours['size']}",
            words,
            f"{duration(ours)} / {duration(theirs)}",
            f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}",
            f"{memory(ours)} / {memory(theirs)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    plain, ours = (
        next(r for r in training if r["loop"] == loop and r["seconds"])
        for loop in ("transformers", "ncfast")
    )
    runs.add(ours["run"].split()[0])
    seconds = [float(row["seconds"]) for row in (ours, plain)]
    peaks = [float(row["peak"]) / 1e9 for row in (ours, plain)]
    lines.append(
        "| a training step of SmolLM2-135M, 4 x 1,024 tokens | the loop of a transformers user | "
        f"{seconds[0]:.1f} / {seconds[1]:.1f} s | {seconds[1] / seconds[0]:.2g} | "
        f"{peaks[0]:.1f} / {peaks[1]:.1f} GB at the peak |"
    )
    lines.append("")
    lines.append(
        f"Two cores of an AMD EPYC, float32, medians, {' and '.join(sorted(runs))}, quiet; ours / "
        "theirs."
    )
    return "\n".join(lines)


def find(
    results: Sequence[Mapping[str, str]], op: str, size: str, provider: str
) -> Mapping[str, str]:
    """Return the first float32 row of an op on two threads, of a size that begins so."""
    for row in results:
        found = (row["op"], row["provider"], row["dtype"], row["threads"])
        if found == (op, provider, "float32", "2") and row["size"].startswith(size):
            return row
    raise ValueError(f"no row of {op}, {size or 'any size'}, by {provider} in float32, two threads")


def duration(row: Mapping[str, str]) -> str:
    """Return a median in the unit that suits it."""
    value = float(row["median_ms"])
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"


def memory(row: Mapping[str, str]) -> str:
    """Return extra memory in MiB."""
    return f"{float(row['extra_mib']):,.0f} MiB" if row["extra_mib"] else "not measured"


def with_tables(text: str) -> str:
    """Return the README with its two tables as the results have them."""
    folder = ROOT / "benchmarks/results"
    table = render(read_rows(folder / "results.csv"), read_rows(folder / "training.csv"))
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not tail:
        raise SystemExit(f"README.md lacks the comments {BEGIN!r} and {END!r}")
    text = f"{head}{BEGIN}\n{table}\n{END}{tail}"
    before, _, after = text.partition(fairness_scores.HEAD)
    if not after:
        raise SystemExit(f"README.md lacks the table that begins {fairness_scores.HEAD!r}")
    _, _, after = after.partition("\n\n")
    return f"{before}{fairness_scores.render(fairness_scores.read())}\n\n{after}"


def changes() -> dict[Path, str]:
    """Return the pages that are not what the results say, with the text they should have."""
    texts = {README: with_tables(README.read_text(encoding="utf-8"))}
    for sentence in prose.SENTENCES:
        path = README if sentence.page == "README.md" else ROOT / sentence.page
        text = texts.get(path) or path.read_text(encoding="utf-8")
        numbers = sentence.numbers()
        texts[path] = prose.with_numbers(text, sentence.text, numbers, sentence.page)
    return {p: text for p, text in texts.items() if text != p.read_text(encoding="utf-8")}


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail where it differs"
    )
    check = parser.parse_args().check
    try:
        changed = changes()
    except ValueError as error:
        raise SystemExit(f"benchmarks.readme: {error}") from None
    if check and changed:
        lines = [
            f"{path.name}:{number}: {new}"
            for path, text in changed.items()
            for number, (old, new) in enumerate(
                zip(path.read_text("utf-8").splitlines(), text.splitlines(), strict=False), 1
            )
            if old != new
        ]
        raise SystemExit(
            "\n".join(["not what the results say; run python -m benchmarks.readme:", *lines])
        )
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
