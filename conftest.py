"""Two tiers of tests, and two workers.

``pytest`` runs the quick tier: all but what is marked ``slow`` or was measured to be so
(``tests/long.txt``, which ``pytest --all --write-long`` writes), unless it is marked ``quick``.
``pytest --all`` runs everything, ``--rest`` all that the quick tier left out, and a path what is
there: ``pytest tests/training``. A run of a whole tier has two workers where pytest-xdist is
installed and ``-n`` says nothing else.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A thread of OpenMP that has nothing to do asks for work over and over, for milliseconds: of the
# tests at several thread counts that was nine tenths. It sleeps instead.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: two workers that each take two cores wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent
WORKERS = 2
LONG = ROOT / "tests/long.txt"
LONG_SECONDS = 4.0  # of CPU: what takes more goes into the list
QUICK_SECONDS = 10.0  # of CPU: what takes more and is in the quick tier all the same is named
# Whoever asks for these waits for minutes of compiling.
SLOW_FIXTURES = {"cuda_library", "cuda_host_sanitized"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the tier."""
    parser.addoption("--all", action="store_true", help="what is slow too")
    parser.addoption("--rest", action="store_true", help="what the quick tier leaves out, alone")
    parser.addoption("--write-long", action="store_true", help=f"write {LONG.name} anew")


def is_whole_tier(config: pytest.Config) -> bool:
    """Return whether no path was named: then the tier decides what runs."""
    return config.args_source == pytest.Config.ArgsSource.TESTPATHS


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Ask for two workers where a whole tier runs and nothing else was said."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or getattr(option, "usepdb", False):
        return
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # a worker passes here too: it would start two of its own, and they two each
    if is_whole_tier(config) and option.numprocesses is None and not option.collectonly:
        option.numprocesses, option.dist = WORKERS, "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what waits for long compilations as slow; leave what is slow out of the quick tier."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    # A worker is told the paths that its controller was.
    tier = getattr(config, "workerinput", {}).get("tier") or tier_of(config)
    if tier == "all":
        return
    known = set(LONG.read_text(encoding="utf-8").splitlines()) if LONG.exists() else set()
    kept: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        kept[is_slow(item, known) == (tier == "rest")].append(item)
    if kept[False]:
        config.hook.pytest_deselected(items=kept[False])
        items[:] = kept[True]


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage.

    A transformers.Trainer collects at the end of a run: 0.7 s among all that was imported.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


def is_slow(item: pytest.Item, known: set[str]) -> bool:
    """Return whether a test is left out of the quick tier."""
    if item.get_closest_marker("slow"):
        return True
    return item.nodeid in known and not item.get_closest_marker("quick")


def tier_of(config: pytest.Config) -> str:
    """Return which tier this run is: ``quick``, ``rest`` or ``all`` (of what was named)."""
    if config.option.rest:
        return "rest"
    asked = config.option.all or config.option.markexpr
    return "quick" if is_whole_tier(config) and not asked else "all"


class TellWorkers:
    """Hand the tier on to pytest-xdist's workers."""

    def pytest_configure_node(self, node) -> None:
        """Note the tier in what a worker is given."""
        node.workerinput["tier"] = tier_of(node.config)


def pytest_configure(config: pytest.Config) -> None:
    """Register what speaks with workers, where there are any; collect no garbage in imports."""
    gc.disable()
    if config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(TellWorkers())


# -- what a test leaves behind


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give torch back its number of threads: a command's ``--threads`` holds for the process."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


# -- examples in docstrings


@pytest.fixture(autouse=True)
def _files_of_examples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an example that names them a tiny model, ``my-model``, and a text, ``notes.txt``."""
    example = getattr(getattr(request.node, "dtest", None), "docstring", None) or ""
    if "my-model" in example:
        pytest.importorskip("transformers")
        from tests.tiny import write_model, write_text

        folder = request.getfixturevalue("tmp_path")
        write_model(folder / "my-model", "masked")
        write_text(folder / "notes.txt")
        monkeypatch.chdir(folder)


# -- what takes long


def _cpu_seconds() -> float:
    times = os.times()
    forked = getattr(sys.modules.get("tests.serving"), "cpu_seconds", 0.0)
    server = sys.modules.get("tests.forked")
    forked += server.cpu_seconds() if server else 0.0
    return times.user + times.system + times.children_user + times.children_system + forked


# CPU seconds of what many tests share: the first that asks for it is not the one that is slow.
_shared = [0.0]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef):
    """Note what the fixtures of a whole session take."""
    if fixturedef.scope != "session":
        return (yield)
    began, others = _cpu_seconds(), _shared[0]
    try:
        return (yield)
    finally:  # with those that it asked for itself
        _shared[0] = others + _cpu_seconds() - began


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):
    """Note when a test began, in CPU seconds: those of other work on the machine do not count."""
    item.began, item.shared = _cpu_seconds(), _shared[0]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Note the CPU seconds of a test, its fixtures and its processes, in its last report."""
    report = yield
    if report.when == "teardown":
        report.cpu_seconds = _cpu_seconds() - item.began
        report.own_seconds = report.cpu_seconds - (_shared[0] - item.shared)
        marked = ("slow", "quick")
        report.is_marked = any(item.get_closest_marker(name) for name in marked)
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Say what the tier cost, and name what is too long for the quick one and not known to be."""
    reports = [r for rs in terminalreporter.stats.values() for r in rs if hasattr(r, "cpu_seconds")]
    spent = sum(r.cpu_seconds for r in reports)
    terminalreporter.write_line(f"CPU seconds of {len(reports)} tests: {spent:.0f}")
    if path := os.environ.get("NCFAST_TEST_SECONDS"):
        lines = [f"{r.cpu_seconds:.2f}\t{r.nodeid}\n" for r in reports]
        Path(path).write_text("".join(sorted(lines)), encoding="utf-8")
    if config.option.write_long:
        long = sorted(r.nodeid for r in reports if r.own_seconds > LONG_SECONDS)
        LONG.write_text("\n".join(long) + "\n", encoding="utf-8")
    if tier_of(config) == "quick":
        long = [r for r in reports if r.own_seconds > QUICK_SECONDS and not r.is_marked]
        for r in sorted(long, key=lambda r: -r.own_seconds):
            terminalreporter.write_line(
                f"{r.own_seconds:.0f} CPU seconds, of {QUICK_SECONDS:.0f} in the quick tier: "
                f"{r.nodeid} (mark it slow)"
            )
