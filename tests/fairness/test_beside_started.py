"""How another process is started and ended: never the user's script again, nothing left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest
import torch

from ncfast.fairness import EvaluationError, Settings, asking, beside, evaluate, worker
from ncfast.fairness.importing import MARK, START, ModelReader
from ncfast.fairness.likeness import likeness
from ncfast.language import LanguageModel

# A script as people write them: without a guard, in a folder of its own names, which it leaves.
SCRIPT = """
import os, sys
print("started", flush=True)
import threading
from pathlib import Path
import torch
from ncfast.fairness import Settings, beside, evaluate
torch.set_num_threads(2)
os.chdir(sys.argv[4])
keep, next_, taken = beside._Queue.keep, beside._Queue.next, threading.Event()
def kept(self, question, answers, elsewhere=False):
    print(question.key, elsewhere, flush=True)
    keep(self, question, answers, elsewhere)
def asked(self, elsewhere=False):
    if not elsewhere:
        taken.wait(60)
    found = next_(self, elsewhere)
    taken.set()
    return found
beside._Queue.keep, beside._Queue.next = kept, asked
evaluate([sys.argv[1]], Settings(("rte", "sst2"), sys.argv[2], resamples=50), Path(sys.argv[3]))
"""
RUN = """
import os, signal, sys, time, torch
from ncfast.fairness import Settings, evaluate, beside
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
torch.set_num_threads(2)
make = beside._Other.__init__
def made(self, *given):
    make(self, *given)
    fork = 0
    if sys.argv[4] == "forks":  # a child that holds the pipes open
        fork = os.fork()
        if not fork:
            os.close(1)
            time.sleep(60)
            os._exit(0)
    print(self._worker.process.pid, fork, flush=True)
beside._Other.__init__ = made
if __name__ == "__main__":
    from pathlib import Path
    evaluate([sys.argv[1]], Settings(("rte", "sst2"), sys.argv[2], resamples=50), Path(sys.argv[3]))
"""


@pytest.fixture
def data(data):
    """Return a folder with two tasks of GLUE."""
    for name, ends in {"SST-2": "", "RTE": "\tmilk"}.items():
        (data / name).mkdir()
        rows = [f"{'she' if n % 2 else 'he'} bant{ends}\t{n % 2}" for n in range(40)]
        if ends:
            labels = ("entailment", "not_entailment")
            rows = [f"{n}\t{r[:-1]}{labels[n % 2]}" for n, r in enumerate(rows)]
        for part in ("train.tsv", "dev.tsv"):
            (data / name / part).write_text("\n".join(rows) + "\n")
    return data


def lengthen(data, times: int) -> None:
    """Train so many times as long."""
    for name in ("SST-2", "RTE"):
        path = data / name / "train.tsv"
        path.write_text(path.read_text() * times)


def replies_of(folder, place) -> list:
    """Return the replies of a process that is started in a folder, to import ncfast from a file."""
    given = pickle.dumps((sys.path, str(place), None))
    ran = subprocess.run(
        [sys.executable, "-c", START], input=given, capture_output=True, cwd=folder, check=False
    )
    _printed, _, replies = ran.stdout.partition(MARK)
    stream, found = io.BytesIO(replies), []
    with contextlib.suppress(EOFError):
        while True:
            found.append(pickle.load(stream))
    return found


def test_a_process_imports_what_this_one_did_wherever_it_is_started(tmp_path):
    for name in ("pickle", "signal", "os", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else')\n")
    here, there = tmp_path / "ncfast", tmp_path / "mine" / "ncfast"
    for folder, said in ((here, "the folder's"), (there, "mine")):
        (folder / "fairness").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "fairness" / "__init__.py").touch()
        (folder / "fairness" / "asking.py").write_text(
            "import os, pickle\n"
            "def serve(replies, script, parent):\n"
            "    print('no reply')\n"
            f"    pickle.dump(({said!r}, parent == os.getppid()), replies)\n"
        )
    assert replies_of(tmp_path, there / "__init__.py") == [("mine", True)]


def test_a_process_that_cannot_import_says_so(tmp_path):
    [(kind, said)] = replies_of(tmp_path, tmp_path / "gone" / "__init__.py")
    assert kind == "cannot"
    assert said.startswith("FileNotFoundError: ")


class Own(torch.nn.Linear):
    """A module of a class that this file defines."""


def test_a_model_of_the_script_s_own_class_is_not_read(tmp_path, monkeypatch):
    script = tmp_path / "train_it.py"
    script.write_text("raise SystemExit('run again')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("__main__", "train_it"):
        module = ModuleType(name)
        module.Own = Own
        monkeypatch.setattr(Own, "__module__", name)
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, module)
            written = pickle.dumps(Own(2, 2))
        with pytest.raises(EvaluationError, match="would have to run again; expected a module of"):
            ModelReader(io.BytesIO(written), str(script.resolve())).load()
    plain = pickle.dumps(torch.nn.Linear(2, 2))
    assert ModelReader(io.BytesIO(plain), str(script.resolve())).load().in_features == 2


def test_a_module_that_evaluates_when_imported_does_not_in_another_process(monkeypatch):
    monkeypatch.setattr(asking, "_serving", True)
    with pytest.raises(EvaluationError, match="handed to another process; expected the call under"):
        evaluate(["nothing"], Settings(("sst2",)))


@pytest.mark.parametrize(("name", "fits"), [("python3.12", True), ("uwsgi", False), ("", False)])
def test_what_is_started_is_a_python(monkeypatch, name, fits):
    monkeypatch.setattr(sys, "executable", f"/opt/bin/{name}" if name else "")
    if fits:
        assert worker.interpreter().endswith(name)
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(EvaluationError, match="expected a Python interpreter"):
        worker.interpreter()


def test_what_changes_a_model_s_answers_shows(tiny_model, monkeypatch):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    found = likeness(model)
    before = torch.random.get_rng_state()
    assert likeness(pickle.loads(pickle.dumps(model))) == found
    assert torch.equal(torch.random.get_rng_state(), before)

    def apart() -> set[str]:
        here = likeness(model)
        return {part for part in found if here[part] != found[part]}

    kind = type(model.model.bert.encoder.layer[0].output)
    forward = kind.forward
    with monkeypatch.context() as patched:  # no checkpoint, and no pickle, holds it
        patched.setattr(kind, "forward", lambda self, *given: 0.5 * forward(self, *given))
        assert apart() == {"answers", "training"}
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Dropout, "forward", lambda self, given: given)
        assert apart() == {"training"}
    with torch.no_grad():
        model.head_weight[0, 0] += 1e-3
    assert "weights" in apart()


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once_and_helped(tiny_model, data, tmp_path):
    for name in ("pickle", "queue", "signal"):
        (data / f"{name}.py").write_text("raise SystemExit('somebody else')\n")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    words = [str(tiny_model("masked")), str(data), str(tmp_path / "out"), str(data)]
    ran = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.split("\n")
    assert lines.count("started") == 1
    assert any(line.endswith(" True") for line in lines), ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_is_killed_ends_the_run_at_once(tiny_model, data, monkeypatch):
    lengthen(data, 400)
    asked, killed = beside._Other._asked, []

    def ask(self, question):
        os.kill(self._worker.process.pid, signal.SIGKILL)
        killed.append(time.monotonic())
        return asked(self, question)

    monkeypatch.setattr(beside._Other, "_asked", ask)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(EvaluationError, match="was killed by signal 9, as where memory is sho"):
            evaluate([str(tiny_model("masked"))], Settings(("rte", "sst2"), str(data)))
    finally:
        torch.set_num_threads(threads)
    assert time.monotonic() - killed[0] < 20  # the rest would take minutes


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize(
    ("after", "forks", "how"),
    [
        (0.0, "", signal.SIGKILL),
        (5.0, "", signal.SIGKILL),
        (5.0, "forks", signal.SIGKILL),
        (0.0, "", signal.SIGINT),
        (5.0, "", signal.SIGINT),
    ],
)
def test_no_process_is_left_when_the_one_that_asks_ends(
    tiny_model, data, tmp_path, after, forks, how
):
    lengthen(data, 100)
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(RUN)
    model = str(tiny_model("masked"))
    with subprocess.Popen(
        [sys.executable, script, model, data, out, forks],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        other, fork = map(int, run.stdout.readline().split())
        time.sleep(after)
        assert is_running(other)
        if how == signal.SIGINT:  # as a terminal does, to all of them
            os.killpg(run.pid, how)
            assert run.stderr.read().count("Traceback") == 1  # the script's own
        else:
            run.send_signal(how)
        deadline = time.monotonic() + 20
        while is_running(other) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = is_running(other)
        if fork:
            os.kill(fork, signal.SIGKILL)
            while is_running(fork):  # it holds the folder, too
                time.sleep(0.1)
    assert not left
    for name in ("SST-2", "RTE"):
        path = data / name / "train.tsv"
        path.write_text("".join(f"{line}\n" for line in path.read_text().split("\n")[:40]))
    settings = Settings(("rte", "sst2"), str(data), resamples=50)
    found = evaluate([model], settings, out)
    assert json.dumps(found.document) == json.dumps(evaluate([model], settings).document)
