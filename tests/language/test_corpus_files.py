"""Texts as people have them: tables, columns, globs, and every file that is not what it seems."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast.language import Corpus, LanguageError

WRITERS = {}


def written(ending):
    def add(function):
        WRITERS[ending] = function
        return function

    return add


def table(rows, separator, quoting=csv.QUOTE_MINIMAL):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator, quoting=quoting).writerows(rows)
    return stream.getvalue().encode()


@written(".csv")
def _(texts):
    return table([("id", "body"), *((str(i), text) for i, text in enumerate(texts))], ",")


@written(".tsv")
def _(texts):
    rows = [("number", "body"), *((f"{i}.5", text) for i, text in enumerate(texts))]
    return table(rows, "\t", csv.QUOTE_ALL)


@written(".jsonl")
def _(texts):
    records = [{"id": i, "body": text} for i, text in enumerate(texts)]
    return "\r\n\r\n".join(map(json.dumps, records)).encode()


@written(".json")
def _(texts):
    return json.dumps([{"id": 7, "body": text} for text in texts], indent=1).encode()


@written(".txt")
def _(texts):
    return "\r\n".join(texts).encode("utf-8-sig")


@written(".parquet")
def _(texts):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    column = arrow.array(texts).dictionary_encode()
    columns = {"id": range(len(texts)), "body": column}
    parquet.write_table(arrow.table(columns), sink, row_group_size=3)
    return sink.getvalue()


def read(texts, tokenizer, **options):
    options = {"block_size": 16, "progress": False, **options}
    return Corpus.from_spec([str(text) for text in texts], tokenizer, **options)


@pytest.fixture
def expected(tmp_path, sentences, wordpiece_tokenizer):
    path = tmp_path / "expected.txt"
    path.write_text("\n".join(sentences))
    return read([path], wordpiece_tokenizer).fingerprint


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", WRITERS)
def test_header_ids_and_quotes_are_no_text(
    ending, packed, tmp_path, sentences, expected, wordpiece_tokenizer
):
    content = WRITERS[ending](sentences)
    path = tmp_path / f"TEXT{ending}{'.GZ' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    if packed and ending == ".parquet":
        with pytest.raises(LanguageError, match=r"is of no type that is read \(.GZ\)"):
            read([path], wordpiece_tokenizer)
        return
    corpus = read([path], wordpiece_tokenizer)
    assert corpus.fingerprint == expected
    assert corpus.documents == len(sentences)
    assert any("'body' was read" in note for note in corpus.notes) == (ending != ".txt")


def test_the_column_is_asked_for_where_there_are_several(
    tmp_path, sentences, expected, wordpiece_tokenizer
):
    rows = [{"title": "a king", "body": text, "score": 1} for text in sentences]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cells = [("title", "body", "score"), *(row.values() for row in rows)]
    (tmp_path / "a.csv").write_bytes(table(cells, ","))
    for name in ("a.jsonl", "a.csv"):
        path = tmp_path / name
        with pytest.raises(LanguageError, match=r"title, body, score.*as text_column"):
            read([path], wordpiece_tokenizer)
        with pytest.raises(LanguageError, match=r"no column 'Body' \(it has: title, body, score\)"):
            read([path], wordpiece_tokenizer, text_column="Body")
        corpus = read([path], wordpiece_tokenizer, text_column="body")
        assert corpus.fingerprint == expected
        assert not corpus.notes
    with pytest.raises(LanguageError, match=r"text_column='body' with .*which has no columns"):
        read([tmp_path / "expected.txt"], wordpiece_tokenizer, text_column="body")


def test_a_null_in_the_first_record_hides_no_column(tmp_path, wordpiece_tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a1", "body": null}\n{"id": "a2", "body": "she said"}\n')
    with pytest.raises(LanguageError, match="2 columns of text"):
        read([path], wordpiece_tokenizer)
    assert read([path], wordpiece_tokenizer, text_column="body").documents == 1


def test_folders_and_globs(tmp_path, sentences, expected, wordpiece_tokenizer, monkeypatch):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "1.csv").write_bytes(WRITERS[".csv"](sentences[:3]))
    (folder / "2.jsonl").write_bytes(WRITERS[".jsonl"](sentences[3:]))
    (folder / "settings.json").write_text('["a king"]')  # in a folder, no text
    assert read([folder], wordpiece_tokenizer).fingerprint == expected
    assert read([folder / "[12].*"], wordpiece_tokenizer).fingerprint == expected
    monkeypatch.chdir(tmp_path)
    assert read(["**/?.*[vl]"], wordpiece_tokenizer).fingerprint == expected
    with pytest.raises(LanguageError, match=r"no text file or folder matches .*parts/\*\.txt"):
        read([folder / "*.txt"], wordpiece_tokenizer)


def test_a_saved_data_set(tmp_path, sentences, expected, wordpiece_tokenizer):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": sentences}).save_to_disk(str(tmp_path / "saved"))
    assert read([tmp_path / "saved"], wordpiece_tokenizer).fingerprint == expected


DEEP = b"[" * 200_000
BAD = {
    "notes.md": (b"a king", r"notes\.md is of no type that is read \(\.md\); expected \.txt"),
    "bare": (b"a king", r"\(no ending\)"),
    "latin.txt": (b"a " * 200_000 + b"k\xf6nig", r"byte 0xf6 at offset 400,001"),
    "cut.txt": (b"\xef\xbb\xbfking \xe6\xbc", r"unexpected end of data: byte 0xe6 at offset 8"),
    "wide.txt": ("a king".encode("utf-16-le"), "NUL byte at offset 1"),
    "mark.txt": (b"\xef\xbb\xbf", "is empty"),
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"text\r\n", "is empty"),
    "semicolon.csv": (b"id;body\n1;a king\n", r"'id;body' is separated by ';'; expected ','"),
    "ragged.csv": (b"id,body\n1,a king\n2,a queen, too\n", "line 3 has 3 fields and the header 2"),
    "open.csv": (b'id,body\n1,"a king\n2,a queen\n', r"line 3: unexpected end of data"),
    "speech.tsv": (b'id\ttext\n1\t"So," she said.\n', r"line 2: .* expected after '\"'"),
    "twice.csv": (b"text,text\na,b\n", "'text' more than once"),
    "numbers.csv": (b"a,b\n1,2\n", r"no column of text and none named 'text' \(it has: a, b\)"),
    "object.json": (b'{"text": "a king"}', "holds a dict; expected a list"),
    "deep.json": (DEEP, "is nested too deeply"),
    "deep.jsonl": (b'{"text": "he"}\n' + DEEP + b"\n", "line 2 is nested too deeply"),
    "half.jsonl": (b'{"text": "he \\ud83d"}\n', r"line 1 holds half a character .*U\+D83D"),
    "list.jsonl": (b"[1]\n", "line 1 is a list; expected an object"),
    "number.jsonl": (b'{"text": "he"}\n{"text": 3}\n', "line 2 has no text under the key 'text'"),
    "fake.parquet": (b"PAR1 and no more", r"cannot read .*fake\.parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_named(name, tmp_path, wordpiece_tokenizer):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LanguageError, match=message):
        read([tmp_path / name], wordpiece_tokenizer)


def test_parquet_without_text(tmp_path, wordpiece_tokenizer):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"a": [1], "b": ["x"], "c": ["y"]}), path)
    for column, message in [(None, "2 columns of text"), ("a", "'a' of .* holds int64")]:
        with pytest.raises(LanguageError, match=message):
            read([path], wordpiece_tokenizer, text_column=column)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes with names")
def test_a_pipe_is_rejected_at_once(tmp_path, wordpiece_tokenizer):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(LanguageError, match=r"pipe\.txt is no regular file.* read twice"):
        read([tmp_path / "pipe.txt"], wordpiece_tokenizer)


LONG = """
import gzip, json, resource, sys
from ncfast.language import Corpus
from transformers import PreTrainedTokenizerFast

limit = 5 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")
unit = "The nurse said that she would help the old man, and his wife told a story. "

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def write(name, megabytes, begin="", text=unit, end=""):
    opened = gzip.open(name, "wt", compresslevel=1) if name.endswith(".gz") else open(name, "w")
    with opened as file:
        file.write(begin)
        for _ in range(megabytes):
            file.write(text * (1_000_000 // len(text)))
        file.write(end)

write("first.txt", 1)
Corpus.from_spec(["first.txt"], tokenizer, max_tokens=300, progress=False)
# A line of JSON or CSV has to be whole: its bytes, its text and the text it is part of.
for name, megabytes, share, *rest in (
    ("line.txt", 50, 0), ("line.txt.gz", 150, 0), ("word.txt", 50, 0, "", "the,"),
    ("record.jsonl", 50, 5, '{"text": "', unit, '"}'), ("record.csv", 50, 5, 'text\\n"', unit, '"'),
    ("record.jsonl.gz", 150, 5, '{"text": "', unit, '"}'),
):
    write(name, megabytes, *rest)
    before = peak()
    corpus = Corpus.from_spec([name], tokenizer, max_tokens=300, progress=False)
    grown = peak() - before
    print(name, corpus.tokens + corpus.unknown_tokens, f"{grown} MiB")
    assert corpus.tokens == 300, (name, corpus.tokens)
    assert grown <= 48 + share * megabytes, f"{name}: {grown} MiB"
"""


@pytest.mark.slow
def test_one_endless_line_is_read_as_far_as_it_is_needed(tmp_path, wordpiece_tokenizer):
    """50 MB, and 150 MB packed, in one line: under 5 GiB, in the memory of a few blocks."""
    wordpiece_tokenizer.save_pretrained(tmp_path / "tokenizer")
    done = subprocess.run(
        [sys.executable, "-c", LONG],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" MiB") == 6
