"""What streams over batches goes on outside of the inference mode it was made in."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from ncfast import ClassStatistics, NearestCenterAgreement

SUBSETS = {"all": None, "some": [1, 2], "again": None}


def batch():
    torch.manual_seed(0)
    return torch.randn(40, 4), torch.randint(0, 6, (40,))


def in_memory() -> ClassStatistics:
    return ClassStatistics(6, 4, scatter=SUBSETS, diagonal=True)


def saved_and_loaded(stats: ClassStatistics, path) -> ClassStatistics:
    stats.save(path)
    return ClassStatistics.load(path)


WAYS = {
    "made": lambda stats, path: stats,
    "copied": lambda stats, path: copy.deepcopy(stats),
    "moved": lambda stats, path: stats.to("cpu"),
    "loaded": saved_and_loaded,
}


def assert_seen_so_often(stats: ClassStatistics, times: int) -> None:
    whole = in_memory()
    for _ in range(times):
        whole.update(*batch())
    assert torch.equal(stats.counts, whole.counts)
    found, expected = stats._tensors(), whole._tensors()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_statistics(tmp_path, way):
    with torch.inference_mode():
        stats = in_memory()
        stats.update(*batch())
        stats.reset()
        stats.update(*batch())
        stats = WAYS[way](stats, tmp_path / "state")
    stats.update(*batch())
    with torch.inference_mode():
        stats.update(*batch())
    stats.merge(stats.to("cpu"))
    assert_seen_so_often(stats, 6)


def test_merged_without_an_update():
    with torch.inference_mode():
        one, other = (copy.deepcopy(in_memory()) for _ in range(2))
        other.update(*batch())
    one.merge(other)
    one.merge(other)
    assert_seen_so_often(one, 2)


def test_statistics_in_files(tmp_path):
    folder = tmp_path / "rows"
    with torch.inference_mode():
        stats = ClassStatistics(6, 4, scatter=SUBSETS, diagonal=True, storage=folder)
        stats.update(*batch())
        stats.commit()
        del stats
        stats = ClassStatistics.load(folder)
    stats.update(*batch())
    assert_seen_so_often(stats, 2)
    stats.commit()
    del stats
    assert_seen_so_often(ClassStatistics.load(folder), 2)


def test_agreement():
    stats = in_memory()
    stats.update(*batch())
    with torch.inference_mode():
        agreement = NearestCenterAgreement(stats, torch.eye(6, 4))
        agreement.update(*batch())
    once = agreement.compute()
    agreement.update(*batch())
    agreement.merge(agreement)
    assert int(agreement.totals.sum()) == 4 * 40
    assert math.isclose(agreement.compute(), once)
