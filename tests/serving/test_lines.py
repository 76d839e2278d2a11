from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hf_distill.serving.lines import LineWriter, read_lines


def test_a_line_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    writer = LineWriter(path)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((descriptor, path.read_bytes())))
    writer.append({"a": 1})
    assert synced == [(writer._file.fileno(), b'{"a": 1}\n')], "the whole line, and then fsync of this file"
    writer.close()


def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2, "text": "caf\xc3')
    assert list(read_lines(path)) == [{"a": 1}]
    writer = LineWriter(path)
    writer.append({"a": 3})
    writer.close()
    assert list(read_lines(path)) == [{"a": 1}, {"a": 3}]
    assert b"caf" not in path.read_bytes()


def test_a_last_line_without_its_end_is_torn_even_where_it_can_be_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    writer = LineWriter(path)
    writer.append({"a": 3})
    writer.close()
    assert path.read_bytes() == b'{"a": 1}\n{"a": 3}\n'


@pytest.mark.parametrize("line", ["not json", "[1]", '{"a": '])
def test_a_damaged_line_in_the_middle_is_an_error_and_not_skipped(tmp_path, line):
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_lines(path))


def test_text_of_any_kind_comes_back_as_it_was(tmp_path):
    path = tmp_path / "lines.jsonl"
    texts = ["naïve 你好 🙂", "a\nb\r\nc\u2028d\x00", "\ud800"]
    writer = LineWriter(path)
    for text in texts:
        writer.append({"text": text})
    writer.close()
    assert [entry["text"] for entry in read_lines(path)] == texts


def test_what_json_cannot_hold_is_an_error_and_leaves_no_half_line(tmp_path):
    writer = LineWriter(tmp_path / "lines.jsonl")
    with pytest.raises(ValueError, match="set is not JSON serializable"):
        writer.append({"a": {1}})
    writer.append({"a": 1})
    writer.close()
    assert list(read_lines(writer.path)) == [{"a": 1}]


def test_two_writers_of_one_file_are_an_error_until_the_first_is_done(tmp_path):
    first = LineWriter(tmp_path / "lines.jsonl")
    with pytest.raises(ValueError, match="written by another run"):
        LineWriter(tmp_path / "lines.jsonl")
    first.close()
    LineWriter(tmp_path / "lines.jsonl").close()


def test_a_killed_process_and_its_child_do_not_hold_the_lock(tmp_path):
    path = tmp_path / "lines.jsonl"
    # The child is what a data loader's worker is: forked while the ledger is open, and alive a little longer.
    code = (
        "import os, sys, time; from pathlib import Path; from hf_distill.serving.lines import LineWriter\n"
        "writer = LineWriter(Path(sys.argv[1])); child = os.fork()\n"
        "if child == 0: os.close(1); time.sleep(30); os._exit(0)\n"
        "writer.append({'child': child}); print('ready', flush=True); time.sleep(30)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    child = None
    try:
        assert process.stdout.readline() == "ready\n"
        child = json.loads(path.read_text())["child"]
        with pytest.raises(ValueError, match="written by another run"):
            LineWriter(path)
        process.kill()
        process.wait()
        os.kill(child, 0)  # is alive
        deadline = time.monotonic() + 2
        while True:
            try:
                LineWriter(path).close()
                break
            except ValueError:
                assert time.monotonic() < deadline, "the lock outlived its process"
                time.sleep(0.05)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
        if child:
            os.kill(child, signal.SIGKILL)
