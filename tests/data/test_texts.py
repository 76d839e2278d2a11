"""Text that every Python installation holds."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from hf_distill.data.texts import load_texts, split_of

LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def texts():
    return load_texts(share=0.1)


def rows(texts):
    return [(split, row) for split, data in texts.items() for row in data]


def test_there_are_four_domains_in_every_split_but_for_headers_that_are_not_installed(texts):
    expected = {"code", "docs", "unicode"}
    if any(Path(sysconfig.get_path("include")).rglob("*.h")):
        expected |= {"headers"}
    assert set(texts["train"]["domain"]) == expected
    assert {"code", "docs", "unicode"} <= set(texts["test"]["domain"])
    assert {"code", "docs", "unicode"} <= set(texts["probe"]["domain"])


def test_documents_are_what_the_files_hold(texts):
    found = {row["document"]: row["text"] for _, row in rows(texts) if row["domain"] == "code"}
    for name in list(found)[:20]:
        # Sources of the standard library are UTF-8 unless they say otherwise; ast reads the declaration itself.
        content = (LIBRARY / name).read_bytes()
        assert ast.dump(ast.parse(found[name])) == ast.dump(ast.parse(content))


def test_docstrings_are_those_that_inspect_sees():
    documents = load_texts(share=1.0)
    found = {row["document"]: row["text"] for split in documents.values() for row in split if row["domain"] == "docs"}
    assert json.__doc__.strip().splitlines()[0] in found["json/__init__.py"]
    assert json.JSONDecoder.decode.__doc__.splitlines()[0] in found["json/decoder.py"]
    assert "import" not in found["json/scanner.py"]


def test_no_source_of_a_test_documents_docstrings_is_trained_on(texts):
    splits = {}
    for split, row in rows(texts):
        splits.setdefault(row["document"], set()).add(split)
    shared = Counter(row["document"] for _, row in rows(texts))
    assert max(shared.values()) == 2  # modules are in two domains
    assert all(len(found) == 1 for found in splits.values())


def test_code_is_not_tests_tables_or_a_description_of_the_machine(texts):
    names = [row["document"] for _, row in rows(texts) if row["domain"] == "code"]
    parts = {part for name in names for part in Path(name).parts}
    assert not parts & {"test", "tests", "site-packages", "encodings", "pydoc_data"}
    assert not [name for name in names if "sysconfigdata" in name]


def test_the_character_database_says_what_unicodedata_says(texts):
    lines = [line for _, row in rows(texts) if row["domain"] == "unicode" for line in row["text"].splitlines()]
    assert len(lines) > 1000
    for line in lines[::97]:
        code, name, category, *_ = line.split(";")
        assert unicodedata.lookup(name) == chr(int(code, 16))
        assert unicodedata.category(chr(int(code, 16))) == category


def test_the_cut_is_a_pure_function_of_the_documents_name():
    # sha256 computed here by hand: neither the interpreter's salted hash nor the order of documents may matter.
    for document in ("json/decoder.py", "unicode/000100", "a"):
        place = int(hashlib.sha256(f"split:{document}".encode()).hexdigest()[:16], 16) / 2**64
        expected = "test" if place < 0.2 else "probe" if place < 0.5 else "train"
        assert split_of(document, probe_fraction=0.3, test_fraction=0.2) == expected


def test_the_cut_takes_about_the_fractions_asked_for():
    counts = Counter(split_of(str(n), probe_fraction=0.1, test_fraction=0.2) for n in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert counts["probe"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_two_loads_give_the_same_rows_in_the_same_order(texts):
    again = load_texts(share=0.1)
    assert {split: data.to_list() for split, data in again.items()} == {
        split: data.to_list() for split, data in texts.items()
    }


def test_a_share_keeps_a_subset_of_the_whole():
    small = {row["document"] for _, row in rows(load_texts(share=0.05))}
    assert small < {row["document"] for _, row in rows(load_texts(share=0.1))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "java"}, "no collection of texts called 'java'"),
        ({"share": 0}, "share is 0; expected more than 0"),
        ({"test_fraction": 0.6, "probe_fraction": 0.5}, "together less than 1"),
        ({"test_fraction": -0.1}, "expected neither below 0"),
    ],
)
def test_arguments_that_make_no_sense_are_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_texts(**arguments)
