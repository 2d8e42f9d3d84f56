"""``ncfast measure`` in several processes: two gloo ranks find what one process finds."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import distributed

from ncfast.errors import DataError
from ncfast.measure import MeasureInterrupted, measure, one_pass
from ncfast.measure.metrics import MetricsPlan
from ncfast.metrics import shared_pairs
from ncfast.metrics.pairs import Pairs
from ncfast.ranks import Ranks
from tests.forked import run_ranks

ROOT = Path(__file__).parent.parent
SETTINGS = dict(block_size=32, controls="random:1,matched", bootstrap=20, progress=False)
# What is measured, by name; batches of 7 leave the ranks unequal rows, the last of one row too.
CASES = {
    "float32": dict(kind="causal", batch_size=7, layers="all"),
    "float64": dict(kind="causal", batch_size=7, dtype=torch.float64, nc4="other"),
    "masked": dict(kind="masked", batch_size=7, mask_passes=2, dtype=torch.float64),
    "one block": dict(kind="causal", batch_size=4, max_tokens=20, dtype=torch.float64),
}
pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")


def _measure(name, places, ranks=None, **more):
    given = {**SETTINGS, **CASES[name], **more}
    model = given.pop("kind")
    if "nc4" in given:
        given["nc4"] = places["other"]
    return measure(places[model], places["text"], ranks=ranks, **given)


def _stopping_after(batches):
    """Ask for a stop once so many batches are done, as Ctrl-C does."""
    from contextlib import contextmanager

    @contextmanager
    def stop_request():
        asked = iter([False] * (batches - 1) + [True] * 1000)
        yield lambda: next(asked)

    return stop_request


def _attempt(function):
    try:
        function()
    except (ValueError, OSError, MeasureInterrupted) as error:
        return [type(error).__name__, str(error)]
    return None


def _rank(rank, places, out):
    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=2
    )
    ranks, out = Ranks.current(), Path(out)
    shared_pairs.LINE = 16  # of 67 classes, whose pairs are shared for this
    for name in CASES:
        result = _measure(name, places, ranks, out=out / name)
        assert (result.report == {}) == (rank == 1)
        assert rank == 0 or result.path is None
    said = {}
    stopped = dict(out=out / "stopped", save_every_seconds=0.0)
    real, one_pass.stop_request = one_pass.stop_request, _stopping_after(3 if rank else 10**6)
    said["stop"] = _attempt(lambda: _measure("float32", places, ranks, **stopped))
    one_pass.stop_request = real
    said["files"] = sorted(path.name for path in (out / "stopped").glob("*"))
    distributed.barrier()
    _measure("float32", places, ranks, **stopped, resume=True)
    if rank == 0:  # a group of one goes on with what two have saved, and the other way round
        _measure("float32", places, out=out / "stopped", resume=True, nc4=places["other"])
    distributed.barrier()
    _measure("float64", places, ranks, out=out / "float64", resume=True)
    said["text"] = _attempt(
        lambda: _measure("float64", places | ({"text": "missing.txt"} if rank else {}), ranks)
    )
    said["other"] = _attempt(
        lambda: _measure("float64", places, ranks, dtype=torch.float32 if rank else torch.float64)
    )
    held_out = places | {"other": places["third"] if rank else places["other"]}
    said["held-out"] = _attempt(lambda: _measure("float64", held_out, ranks))
    saved = {"out": out / "one alone"} if rank == 0 else {}
    said["saved"] = _attempt(lambda: _measure("masked", places, ranks, **saved))
    said["folder"] = _attempt(lambda: _measure("masked", places, ranks, out=out / "float32"))
    step = one_pass.MeasurePass._step
    one_pass.MeasurePass._step = _failing(step, rank, lambda: _raise(DataError("x is NaN")))
    said["step"] = _attempt(lambda: _measure("float64", places, ranks))
    one_pass.MeasurePass._step = step
    write = one_pass.MeasurePass._write
    one_pass.MeasurePass._write = lambda self, path: _raise(OSError("no space left"))
    said["disk"] = _attempt(lambda: _measure("float64", places, ranks, out=out / "full"))
    one_pass.MeasurePass._write = write
    collapse = MetricsPlan._collapse
    if rank:
        MetricsPlan._collapse = lambda self, classes, ranks: _raise(DataError("no such metric"))
    said["metrics"] = _attempt(lambda: _measure("float64", places, ranks))
    MetricsPlan._collapse = collapse
    sums_over = Pairs._sums_over
    if rank:
        Pairs._sums_over = lambda *given: _raise(DataError("no such pair"))
    said["pairs"] = _attempt(lambda: _measure("float64", places, ranks))
    Pairs._sums_over = sums_over
    (out / f"said{rank}.json").write_text(json.dumps(said))
    distributed.barrier()
    one_pass.MeasurePass._step = _failing(step, rank, lambda: os._exit(0))
    lost = dict(out=out / "lost", save_every_seconds=0.0)
    said["lost"] = _attempt(lambda: _measure("float64", places, ranks, **lost))
    (out / f"said{rank}.json").write_text(json.dumps(said))
    os._exit(0)


def _alone(rank, places, out):
    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=2
    )
    _measure("one block", places, Ranks.current(), out=Path(out) / "report")
    distributed.destroy_process_group()


def _raise(error):
    raise error


def _failing(step, rank, how):
    """Fail on the second rank in its third batch."""

    def instead(self, mask_pass, batch):
        return how() if rank and batch.index == 2 else step(self, mask_pass, batch)

    return instead


@pytest.fixture(scope="module")
def places(tiny_model, tiny_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    lines = tiny_text.read_text().splitlines()
    parts = {"text": lines[:250], "other": lines[400:450], "third": lines[450:470]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    texts = {name: str(folder / f"{name}.txt") for name in parts}
    return texts | {kind: str(tiny_model(kind)) for kind in ("causal", "masked")}


@pytest.fixture(scope="module")
def two(places, tmp_path_factory):
    """Run everything in one pair of processes: most of the time is their start."""
    out = tmp_path_factory.mktemp("two")
    run_ranks(_rank, (places, str(out)))
    return out


def _read(folder):
    return json.loads((folder / "report.json").read_text())


def _assert_equal(found, expected, tolerance):
    assert found["tokens"] == expected["tokens"]
    assert found["text"] == expected["text"]
    assert found["held_out"] == expected["held_out"]
    pairs = [(found["sets"], expected["sets"])]
    if expected.get("layers"):
        layers = zip(found["layers"]["points"], expected["layers"]["points"], strict=True)
        pairs += [(a["sets"], b["sets"]) for a, b in layers]
    for mine, theirs in pairs:
        assert set(mine) == set(theirs)
        for name, whole in theirs.items():
            values = whole.get("metrics", whole)
            got = mine[name].get("metrics", mine[name])
            assert set(got) == set(values)
            for key, value in values.items():
                if key.endswith("_margin"):
                    continue  # how far what is rounding lies from the cut: rounding itself
                if value is None or math.isnan(value):
                    assert got[key] == value or math.isnan(got[key]), (name, key)
                else:
                    assert got[key] == pytest.approx(value, rel=tolerance, abs=tolerance), (
                        name,
                        key,
                    )
            for key, ends in (whole.get("intervals") or {}).items():
                if key == "unc3_cov":
                    continue  # a draw may bring the mean it is divided by near 0
                near = pytest.approx(ends, rel=tolerance, abs=tolerance)
                assert mine[name]["intervals"][key] == near, (name, key)
            if rows := whole.get("per_class"):
                counts = [(row["id"], row["count"]) for row in rows]
                assert [(row["id"], row["count"]) for row in mine[name]["per_class"]] == counts


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_find_what_one_process_finds(name, two, places, tmp_path):
    _measure(name, places, out=tmp_path)
    one = _read(tmp_path)
    _assert_equal(_read(two / name), one, 1e-5 if name == "float32" else 1e-10)


@pytest.mark.slow
def test_two_fresh_processes_find_what_two_forked_ones_find(two, places, tmp_path):
    """As torchrun starts them: nothing of a server's imports is there."""
    run_ranks(_alone, (places, str(tmp_path)), how="spawn")
    _assert_equal(_read(tmp_path / "report"), _read(two / "one block"), 1e-12)


def test_a_group_that_was_stopped_goes_on_to_the_same_numbers(two, places, tmp_path):
    """The signal reached the second rank alone; the third run of them was one process."""
    said = [json.loads((two / f"said{rank}.json").read_text()) for rank in (0, 1)]
    for rank in (0, 1):
        assert said[rank]["stop"] == ["MeasureInterrupted", "stopped after 3 of 15 batches"]
        assert said[rank]["files"] == ["layers-3.safetensors", "statistics.safetensors"]
    _measure("float32", places, out=tmp_path, nc4=places["other"])
    _assert_equal(_read(two / "stopped"), _read(tmp_path), 1e-5)


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("text", "DataError", "rank 1 of 2: there is no text file or folder missing.txt"),
        ("other", "DataError", "rank 1 of 2 measures something else: dtype is float32 there"),
        ("held-out", "DataError", "rank 1 of 2 measures something else: nc4 is "),
        ("saved", "DataError", "rank 1 of 2 measures something else: saved is false there"),
        ("folder", "DataError", "holds the report of another measurement: "),
        ("step", "DataError", "rank 1 of 2: x is NaN"),
        ("disk", "OSError", "no space left"),
        ("metrics", "DataError", "rank 1 of 2: no such metric"),
        ("pairs", "DataError", "rank 1 of 2: no such pair"),
        ("lost", "PeerLost", "rank 0 of 2 lost another process, which has ended or did not answer"),
    ],
)
def test_what_stops_one_rank_stops_all_and_is_said_once(what, kind, message, two):
    said = [json.loads((two / f"said{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0][what][0] == kind
    assert message in said[0][what][1]
    if what == "lost":
        assert said[0][what][1].endswith("; saved after 2 of 15 batches, go on with --resume")
    else:
        assert said[1][what][0] == "SaidByAnother"
