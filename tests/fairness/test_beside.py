"""Benchmarks asked side by side: the same numbers, errors in a sentence, nothing left behind."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from ncfast.fairness import EvaluationError, Settings, beside, evaluate, worker
from ncfast.fairness.asking import Question
from ncfast.fairness.benchmarks import make
from ncfast.fairness.beside import ask_all, processes_for
from ncfast.fairness.data import DataFolder
from ncfast.fairness.importing import MARK
from ncfast.fairness.likeness import likeness
from ncfast.language import LanguageModel

# Stands in for another process: says it is ready, reads its first question, and goes on so.
FAKE = """
import os, pickle, signal, sys, time
like = {like!r}
class Whatever:
    def __new__(cls, *given, **named): return object.__new__(cls)
    def __init__(self, *given, **named): pass
    def __setstate__(self, given): pass
    __call__ = __setitem__ = append = extend = __init__
class Taking(pickle.Unpickler):  # imports nothing
    def find_class(self, module, name): return Whatever
def take(): Taking(sys.stdin.buffer).load()
def send(kind, told=None): pickle.dump((kind, told), sys.stdout.buffer); sys.stdout.buffer.flush()
print({before!r}); sys.stdout.flush()
sys.stdout.buffer.write({mark!r}); sys.stdout.flush()
take(); take(); take()
{first}
take()
{then}
time.sleep(60)
"""

READY = 'send("ready", like)'


@pytest.fixture
def data(data):
    """Return a folder with two tasks of GLUE and four pairs of CrowS-Pairs."""
    for name, rows in {
        "SST-2": [f"{'she' if n % 2 else 'he'} bant\t{n % 2}" for n in range(48)],
        "RTE": [
            f"{n}\t{'she' if n % 2 else 'he'} bant\tmilk\t{'not_' * (n % 2)}entailment"
            for n in range(40)
        ],
    }.items():
        (data / name).mkdir()
        for part in ("train.tsv", "dev.tsv"):
            (data / name / part).write_text("\n".join(rows) + "\n")
    return data


@pytest.fixture
def threads():
    """Return what sets torch's threads, which are put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def asked(tiny_model, data, monkeypatch):
    """Return a function that asks two tasks with a stand-in for the other process."""
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    folder = DataFolder(str(data))
    made = [make("rte"), make("sst2")]
    questions = [Question(b.name, b, b.read(folder, "all"), None) for b in made]

    like, check = likeness(model), beside._Queue.check

    def ask(first=READY, then="", model=model, questions=questions, patience=20.0, before=""):
        code = FAKE.format(first=first, then=then, before=before, mark=MARK, like=like)
        monkeypatch.setattr(worker, "START", "import pickle\n" + code)
        ask.kept = kept = {}
        said, deadline = [], time.monotonic() + patience

        def begin(key):
            said.append(key)
            return lambda done, total: None

        def slow(self):  # this process is slow: the other is met while it asks
            here = threading.current_thread() is threading.main_thread()
            while here and others() and time.monotonic() < deadline:
                time.sleep(0.05)
            check(self)

        def keep(question, answers):
            kept[question.key] = answers[0]

        monkeypatch.setattr(beside._Queue, "check", slow)
        ask_all(model, questions, None, 2, keep, begin, said.append)
        return kept, said

    return ask


def others():
    return [thread for thread in threading.enumerate() if isinstance(thread, beside._Other)]


def kept_answers(out):
    return {path.name: path.read_bytes() for path in out.glob("answers/*/*.json")}


@pytest.fixture
def elsewhere(monkeypatch):
    """Return what is answered by another process, which is waited for before this one begins."""
    taken, kept = threading.Event(), []
    ask, keep = beside._Queue.next, beside._Queue.keep

    def next_(self, elsewhere=False):
        if not elsewhere:
            assert taken.wait(120), "no other process has asked for a benchmark"
        found = ask(self, elsewhere)
        taken.set()
        return found

    def kept_(self, question, answers, elsewhere=False):
        kept.extend([question.key] if elsewhere else [])
        keep(self, question, answers, elsewhere)

    monkeypatch.setattr(beside._Queue, "next", next_)
    monkeypatch.setattr(beside._Queue, "keep", kept_)
    return kept


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_same_digits_of_any_number_of_processes(
    tiny_model, data, tmp_path, threads, elsewhere, count
):
    settings = Settings(("crows-pairs", "rte", "sst2"), str(data), resamples=50)
    found, lines = [], []
    for number in (1, count):
        threads(number)
        out = tmp_path / str(number)
        found.append(evaluate([str(tiny_model("masked"))], settings, out, say=lines.append))
        assert torch.get_num_threads() == number
    assert "sst2" in elsewhere  # a real process did the longest
    assert found[0].document == found[1].document
    assert list(found[0].records) == list(found[1].records)
    assert kept_answers(tmp_path / "1") == kept_answers(tmp_path / str(count))
    assert len(kept_answers(tmp_path / "1")) == 3
    assert not list((tmp_path / str(count)).rglob("*.jsonl"))
    assert not [line for line in lines if "process" in line]  # none was asked for in vain
    # Nothing is asked again, and no process is started for that.
    threads(count)
    again = evaluate([str(tiny_model("masked"))], settings, tmp_path / str(count))
    assert again.document == found[0].document


def test_the_longest_are_asked_first_and_each_once(asked):
    kept, said = asked(then='send("progress", (1, 2)); send("answers", (["theirs"], []))')
    # SST-2 has more items, and is asked here; RTE elsewhere.
    assert sorted(said) == ["rte", "sst2"]
    assert kept["rte"] == ["theirs"]
    assert len(kept["sst2"]) == 48


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (READY, 'send("error", "a: not finite")', "^rte: a: not finite$"),
        (READY, "sys.exit(3)", "^rte: the process that was asked ended with exit code 3"),
        (
            READY,
            "os.kill(os.getpid(), signal.SIGKILL)",
            "^rte: .*was killed by signal 9, as where memory is short; .*--threads 1",
        ),
        ("sys.exit(1)", "", "^evaluate: the process that was asked ended with exit code 1"),
        ('sys.stdout.write("hello" * 99); sys.exit()', "", "^evaluate: the process that was asked"),
        (READY, "os.dup2(2, 1)", "^rte: .* sent no answer that can be read; .*--threads 1"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_what_ends_another_process_is_told_with_its_task(asked, first, then, said):
    with pytest.raises(EvaluationError, match=said) as caught:
        asked(first, then)
    assert not asked.kept  # what is asked here ended as well
    assert "\n" not in str(caught.value)


def test_a_process_that_never_replies_is_not_waited_for(asked):
    kept, _said = asked("time.sleep(60)", patience=0.2)
    assert sorted(kept) == ["rte", "sst2"]
    assert not others()


def test_what_a_system_prints_before_is_no_reply(asked):
    kept, said = asked(then='send("answers", (["theirs"], []))', before="welcome\n\n")
    assert kept["rte"] == ["theirs"], said


def test_another_model_is_not_asked(asked):
    kept, said = asked('send("ready", {**like, "answers": "others"})')
    assert {key: len(records) for key, records in kept.items()} == {"sst2": 48, "rte": 40}
    assert [line for line in said if line.endswith("its model is another one, by its answers")]


def test_a_program_that_is_no_python_is_not_started(asked, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/studio/studio")
    kept, said = asked()
    assert sorted(kept) == ["rte", "sst2"]
    assert any("this program is studio; expected a Python interpreter" in line for line in said)


def test_a_model_that_another_process_cannot_have_is_asked_here(asked):
    kept, said = asked('send("cannot", "no module of that name")')
    assert {key: len(records) for key, records in kept.items()} == {"sst2": 48, "rte": 40}
    assert any("no module of that name" in line for line in said)


def test_a_model_that_cannot_be_handed_over_is_asked_here(asked, tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    model.body.told = lambda: None  # no function of a name
    kept, said = asked(model=model)
    assert sorted(kept) == ["rte", "sst2"]
    assert any("one process less" in line for line in said)


def test_a_benchmark_of_the_caller_s_is_asked_here(asked, data):
    class Own(type(make("rte"))):
        """A benchmark that another process does not know."""

    folder = DataFolder(str(data))
    own = [Own("rte"), Own("sst2")]
    questions = [Question(b.name, b, b.read(folder, "all"), None) for b in own]
    kept, _said = asked(then="sys.exit(3)", questions=questions)
    assert sorted(kept) == ["rte", "sst2"]


def test_an_error_here_ends_the_other_process(asked, tiny_model, monkeypatch):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    with torch.no_grad():
        next(model.body.parameters())[:] = torch.nan
    made, start = [], beside._Other.start
    monkeypatch.setattr(beside._Other, "start", lambda self: made.append(self) or start(self))
    with pytest.raises(EvaluationError, match="its outputs are not finite"):
        asked(model=model, patience=0.5)
    assert made[0]._worker.process.returncode is not None
    assert not made[0].is_alive()


@pytest.mark.parametrize(
    ("trains", "device", "width", "count"),
    [(True, "cpu", 128, 3), (False, "cpu", 128, 1), (True, "cuda", 128, 1), (True, "cpu", 768, 1)],
)
def test_several_processes_are_for_narrow_models_that_are_trained(
    threads, trains, device, width, count
):
    config = SimpleNamespace(hidden_size=width)
    model = SimpleNamespace(
        device=SimpleNamespace(type=device), body=SimpleNamespace(config=config)
    )
    threads(3)
    benchmarks = [make("sst2" if trains else "stereoset"), make("seat")]
    assert processes_for(model, benchmarks) == count
    threads(8)
    assert processes_for(model, benchmarks) == (4 if trains and count > 1 else 1)
