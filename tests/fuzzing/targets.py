"""What is fuzzed: a reader, the whole file it is given, and how that is damaged."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub

from ncfast import ClassStatistics, sealed_file
from ncfast.cli import COMMANDS, main
from ncfast.experiment import load_protocol
from ncfast.fairness import Settings, score_predictions
from ncfast.fairness.benchmarks import make
from ncfast.fairness.data import DataFolder
from ncfast.fairness.recipes.entailment import read_pairs
from ncfast.language import Corpus, WordSet
from ncfast.reporting import compare_reports, read_report
from ncfast.reporting.comparison_tree import render_comparison_page
from ncfast.reporting.report_tree import render_page
from ncfast.statistics.file import FORMAT
from ncfast.training.log import read_log

from .damage import changed, command_line, damaged, toml_of

ROOT = Path(__file__).parents[2]
LINES = "she bant card\nhe bant card ünï\n\nthe queen ran fold\n"
TABLE = "text,n\n" + "".join(f'"{line}",1\n' for line in LINES.splitlines() if line)
CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type\n0,she bant,he bant,stereo,gender\n"
PAIRS = "orig_sent0,orig_sent1,aug_sent0,aug_sent1\nhe ran,he fosp,she ran,she fosp\n"
BEC = (
    "\tSentence\tSent_TM\tSent_AM\tSent_TAM\tTemplate\tPerson\tGender\tProfession\tProf_Gender\n"
    "0\tshe is a cook.\t[MASK] is a cook.\tshe is a [MASK].\t[MASK] is a [MASK].\tt\tshe\tfemale"
    "\tcook\tbalanced\n"
)
SEAT = {
    k: {"category": k, "examples": [f"{k} a", "b"]} for k in ("targ1", "targ2", "attr1", "attr2")
}
STEREO = {
    "id": "1",
    "target": "nurse",
    "bias_type": "gender",
    "context": "The nurse was BLANK.",
    "sentences": [
        {"id": f"{n}", "sentence": f"The nurse was {word}.", "gold_label": label}
        for n, (word, label) in enumerate(
            [("kind", "stereotype"), ("rude", "anti-stereotype"), ("tree", "unrelated")]
        )
    ],
}
QUESTION = {
    "example_id": 1,
    "category": "Age",
    "question_polarity": "neg",
    "context_condition": "ambig",
    "context": "Two people.",
    "question": "Who?",
    "ans0": "A",
    "ans1": "B",
    "ans2": "Unknown",
    "answer_info": {"ans0": ["A", "old"], "ans1": ["B", "nonOld"], "ans2": ["U", "unknown"]},
    "label": 2,
    "additional_metadata": {"stereotyped_groups": ["old"]},
}


@dataclass(frozen=True)
class Target:
    """Hold what is drawn, what is done with it in an empty folder, and what has nothing wrong."""

    drawn: Any
    attempt: Callable[[Any], object]
    whole: Any = None


def written(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return an attempt that writes a file and reads it."""

    def attempt(data: bytes) -> object:
        Path(name).write_bytes(data)
        return read(Path(name))

    return attempt


def of_bytes(whole: bytes, name: str, read: Callable[[Path], object]) -> Target:
    """Return the target of a reader of files with this name."""
    return Target(damaged(whole), written(name, read), whole)


def of_json(value: Any, name: str, read: Callable[[Path], object]) -> Target:
    """Return the same for JSON: a document with other values, or its bytes damaged."""
    whole = json.dumps(value).encode()
    drawn = changed(value).map(lambda one: json.dumps(one).encode()) | damaged(whole)
    return Target(drawn, written(name, read), whole)


def targets(model: Path, report: Path, statistics: Path) -> dict[str, Target]:
    """Return every target by name.

    Args:
        model: the folder of a tiny model with its tokenizer.
        report: a report.json of ours.
        statistics: a file of :class:`ClassStatistics`.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return {
        **_statistics(statistics),
        **_language(tokenizer),
        **_reports(report),
        **_fairness(),
        **_experiments(),
        **{
            f"ncfast {name}": _command(name, model, report) for name in COMMANDS if name != "doctor"
        },
    }


def _statistics(path: Path) -> dict[str, Target]:
    metadata, tensors = sealed_file.load_tensors(path, FORMAT)
    header = {k: v for k, v in metadata.items() if k not in ("format", "checksum")}
    settings = json.loads(header["configuration"])

    def resealed(settings: Any) -> object:
        given = {**header, "configuration": json.dumps(settings)}
        sealed_file.save_tensors(Path("s.safetensors"), tensors, given, FORMAT)
        return ClassStatistics.load("s.safetensors")

    return {
        "statistics": of_bytes(path.read_bytes(), "s.safetensors", ClassStatistics.load),
        "statistics, resealed": Target(changed(settings), resealed, settings),
    }


def _language(tokenizer: Any) -> dict[str, Target]:
    words = json.loads((ROOT / "ncfast/language/wordsets/gender.json").read_text())
    small = {"groups": {k: v[:4] for k, v in words["groups"].items()}, "pairs": words["pairs"][:2]}

    def classes(path: Path) -> object:
        return WordSet.load(str(path)).to_classes(tokenizer)

    def corpus(path: Path) -> object:
        options: dict[str, Any] = {"block_size": 16, "progress": False, "max_tokens": 500}
        read = Corpus.from_spec([str(path)], tokenizer, **options)
        return [batch.input_ids.sum() for batch in read.batches(4)]

    records = [json.dumps({"text": line, "n": 1}) for line in LINES.splitlines() if line]
    texts = {
        "txt": LINES.encode(),
        "txt.gz": gzip.compress(LINES.encode()),
        "jsonl": "\n".join(records).encode(),
        "json": f"[{','.join(records)}]".encode(),
        "csv": TABLE.encode(),
        "tsv": TABLE.replace(",", "\t").encode(),
    }
    with contextlib.suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(pyarrow.table({"text": LINES.splitlines()}), sink)
        texts["parquet"] = sink.getvalue()
    return {
        "words.json": of_json(small, "w.json", classes),
        "words.txt": of_bytes(b"she he\nqueen king\n", "w.txt", classes),
        **{f"text.{s}": of_bytes(t, f"t.{s}", corpus) for s, t in texts.items()},
    }


def _reports(path: Path) -> dict[str, Target]:
    whole = json.loads(path.read_text(encoding="utf-8"))

    def shown(found: Path) -> object:
        report = read_report(found)
        document = compare_reports(report, whole, labels=("a", "b"), paths=("a", "b"))
        return render_page(report), render_comparison_page(document)

    def beside(reference: Path) -> object:
        return compare_reports(
            whole, whole, labels=("a", "b"), paths=("a", "b"), reference=str(reference)
        )

    published = b"model,cdnv,simcos_mean,hits,misses\na,0.1,0.2,1,3\n"
    row = b'{"step": 1, "loss": 0.5, "seconds": 0.1, "learning_rate": 0.1}\n'
    return {
        "report.json": of_json(whole, "report.json", shown),
        "published.csv": of_bytes(published, "r.csv", beside),
        "steps.jsonl": of_bytes(row * 3, "steps.jsonl", read_log),
    }


def _fairness() -> dict[str, Target]:
    def read(benchmark: str, attribute: str = "gender") -> Callable[[Path], object]:
        return lambda path: make(benchmark).read(DataFolder(str(path)), attribute)

    def predictions(benchmark: str) -> Callable[[Path], object]:
        return lambda path: score_predictions(benchmark, path, Settings(on=(benchmark,)))

    stereo = {"version": "1", "data": {"intrasentence": [STEREO], "intersentence": []}}
    bios = b"label,prediction,gender\nnurse,nurse,F\nnurse,cook,M\n"
    nli = b"entailment,neutral,contradiction\n0.1,0.8,0.1\n0.3,0.4,0.3\n"
    return {
        "crows.csv": of_bytes(CROWS.encode(), "crows_pairs_anonymized.csv", read("crows-pairs")),
        "seat.jsonl": of_json(SEAT, "sent-weat6.jsonl", read("seat")),
        "stereoset.json": of_json(stereo, "dev.json", read("stereoset")),
        "bec-pro.tsv": of_bytes(BEC.encode(), "BEC-Pro_EN.tsv", read("bec-pro")),
        "bbq.jsonl": of_json(QUESTION, "Age.jsonl", _bbq),
        "bias-nli.csv": of_bytes(nli, "nli.csv", predictions("bias-nli")),
        "bios.csv": of_bytes(bios, "bios.csv", predictions("bias-in-bios")),
        "pairs.csv": of_bytes(PAIRS.encode(), "p.csv", lambda p: read_pairs(str(p))),
    }


def _bbq(_: Path) -> object:
    Path("additional_metadata.csv").write_text(
        "category,question_index,example_id,target_loc,label_type\nAge,1,1,0,label\n"
    )
    return make("bbq").read(DataFolder("."), "all")


def _experiments() -> dict[str, Target]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    text = (ROOT / "experiments/laptop.toml").read_bytes()
    document = tomllib.loads(text.decode())
    drawn = changed(document).map(lambda one: toml_of(one).encode()) | damaged(text)
    return {"protocol.toml": Target(drawn, written("p.toml", load_protocol), text)}


def _command(name: str, model: Path, report: Path) -> Target:
    """Return the command with any flags, at most naming small files that there are."""
    subjects = ["nowhere", str(report), "table.csv", "--", "-"]
    if name in ("evaluate", "compare", "experiment"):  # the others would do their work
        subjects.append(str(model))
    allowed = {0, 1, 2}

    def attempt(words: list[str]) -> None:
        Path("table.csv").write_text(TABLE)
        if name == "evaluate" and "--data" not in words:  # not all of what the demo holds
            Path("crows_pairs_anonymized.csv").write_text(CROWS)
            words = [*words, "--data=."]
        # Nothing is fetched, whatever a name looks like. The environment was read at the import.
        offline = mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with offline, quiet() as (out, err):
            try:
                code = main(words)
            except SystemExit as stop:
                code = stop.code
        said = err.getvalue()
        assert code in allowed, (code, words)
        if code == 2:
            lines = [line for line in said.splitlines() if ": error: " in line]
            assert len(lines) == 1, said
            assert lines[0].isprintable(), said
            assert len(lines[0]) < 1300
        assert "Traceback" not in said + out.getvalue()

    return Target(command_line(name, subjects).filter(_stays_here), attempt)


def _stays_here(words: list[str]) -> bool:
    return not any(word.startswith(("pypi:", "demo:", "hf:", "/dev", "/proc")) for word in words)


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Catch what a command prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err
