"""What a release holds: licences of what is compiled in, no path of a machine, a build's files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import bundled, release

ROOT = Path(__file__).parents[1]


def test_every_header_of_others_has_its_licence(tmp_path):
    assert bundled.unattributed() == []
    (tmp_path / "a.h").write_text("#include <vector>\n#include <eigen/core.h>\n")
    (tmp_path / "testing").mkdir()
    (tmp_path / "testing/b.h").write_text("#include <gtest/gtest.h>\n")
    assert bundled.unattributed(tmp_path) == ["a.h: eigen/core.h"]


def test_the_list_has_a_text_for_every_work_whose_text_we_may_repeat():
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for one in bundled.BUNDLED:
        assert f"| {one.name} | {one.licence} |" in text
        assert not one.package or f"## {one.name}\n\n```text\n" in text
    assert text.count("Copyright") >= 5


def _wheel(path, **files):
    with zipfile.ZipFile(path, "w") as file:
        for name in release.HELD:
            file.writestr(name if name.startswith("ncfast/") else f"ncfast-1.dist-info{name}", "")
        for name, data in files.items():
            file.writestr(name, data)
    return path


def test_a_wheel_is_looked_into(tmp_path):
    # Put together here: tests/test_style.py lets no file name a machine.
    home = b"/" + b"home/someone/x.h"
    assert release.check_files(_wheel(tmp_path / "a.whl")) == []
    spoiled = {"ncfast.libs/libgomp.so": b"", "ncfast/_native/x.so": b"\0" + home}
    wrong = "; ".join(release.check_files(_wheel(tmp_path / "b.whl", **spoiled)))
    assert "ncfast.libs/libgomp.so is none of ncfast's" in wrong
    assert "ncfast/_native/x.so holds" in wrong
    assert release.check_files(tmp_path / "a.whl", cuda=True) == [
        "ncfast/_native/libncfast_cuda.so is missing"
    ]
    with_cuda = _wheel(tmp_path / "d.whl", **{release.CUDA_HELD: b""})
    assert release.check_files(with_cuda, cuda=True) == []
    assert release.check_files(with_cuda) == [f"{release.CUDA_HELD} is in a wheel for CPUs"]
    with zipfile.ZipFile(tmp_path / "c.whl", "w") as file:
        file.writestr("ncfast/__init__.py", "")
    assert len(release.check_files(tmp_path / "c.whl")) == len(release.HELD)


def test_a_bill_of_materials_without_ours_is_refused():
    ours = {"name": "ncfast", "version": "1", "licenses": [{"expression": "Apache-2.0"}]}
    other = {"name": "a", "version": "2", "licenses": [{"license": {"id": "MIT"}}]}
    assert release.licences({"components": [ours, other]}) == ["a 2: MIT", "ncfast 1: Apache-2.0"]
    with pytest.raises(SystemExit, match="no ncfast under Apache"):
        release.licences({"components": [other]})


def test_the_sdist_holds_what_a_build_reads(tmp_path):
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path / "dist")]
    copy = tmp_path / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("no git here to name the files of the sources")
    for name in names.stdout.splitlines():
        if name.startswith(("csrc/", "ncfast/")) or "/" not in name:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "dist").iterdir()
    with tarfile.open(path) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    sources = {str(p.relative_to(copy)) for p in (copy / "csrc").rglob("*") if p.is_file()}
    assert sources <= held
    assert {"setup.py", "pyproject.toml", "LICENSE", "THIRD_PARTY.md"} <= held
    assert not [name for name in held if name.startswith("tests/")]


def test_no_library_of_kernels_tells_where_headers_lay(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "csrc/build_cuda.py")
    building = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])  # it adds its folder
    spec.loader.exec_module(building)
    torch = tmp_path / "torch"
    torch.mkdir()
    (torch / "version.py").write_text("")
    jobs = [*building.host_jobs(torch)[0]]
    monkeypatch.setattr(building, "find_nvcc", lambda: tmp_path / "nvcc")
    monkeypatch.setattr(building, "toolkit_folders", lambda compiler: (tmp_path / "cuda", tmp_path))
    monkeypatch.setattr(building, "build", lambda made, link, output: jobs.extend(made))
    building.build_device(torch, tmp_path / "x.so")
    included = 0
    for job in jobs:
        for flag in job.command:
            if flag.startswith("-I"):
                included += 1
                assert f"-ffile-prefix-map={flag[2:]}=include" in job.command, job.source
    assert included == 3  # torch's for both, CUDA's
