from __future__ import annotations

import csv
import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_distill.data.docstrings import MODULES, load_docstrings
from hf_distill.data.labelled_texts import load_labelled_texts

ROWS = [{"text": f"text {number // 2}", "label": f"class {number % 3}"} for number in range(120)]  # each text twice


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_every_row_is_in_a_split_and_no_text_in_two_splits(table):
    shares = {"validation_fraction": 0.2, "test_fraction": 0.1, "held_out_fraction": 0.1, "pool_fraction": 0.2}
    data = load_labelled_texts({"data_files": str(table), **shares})
    splits = [data.train, data.validation, data.test, data.held_out, data.pool]
    assert [len(rows) for rows in splits] == [48, 24, 12, 12, 24]
    texts = [{row["text"] for row in rows} for rows in splits]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 60
    assert sorted((row["text"], row["label"]) for rows in splits for row in rows) == sorted(
        (row["text"], row["label"]) for row in ROWS
    )
    assert data.labels == ("class 0", "class 1", "class 2")


def test_the_order_of_the_file_does_not_decide_the_splits(table, tmp_path):
    whole = load_labelled_texts({"data_files": str(table)})
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(ROWS)))
    other = load_labelled_texts({"data_files": str(tmp_path / "other.jsonl")})
    assert {row["text"] for row in other.validation} == {row["text"] for row in whole.validation}
    few = load_labelled_texts({"data_files": str(table), "train_rows": 5})
    assert few.train == whole.train[:5]
    assert few.validation == whole.validation


def test_labels_are_names_where_the_file_holds_ids(tmp_path):
    features = Features({"body": Value("string"), "topic": ClassLabel(names=["zebra", "ant"])})
    rows = Dataset.from_dict({"body": [f"t{n}" for n in range(20)], "topic": [n % 2 for n in range(20)]}, features)
    rows.to_parquet(tmp_path / "rows.parquet")
    columns = {"text_column": "body", "label_column": "topic"}
    data = load_labelled_texts({"data_files": str(tmp_path / "rows.parquet"), **columns})
    assert {(row["text"], row["label"]) for row in data.train} <= {
        (f"t{n}", ["zebra", "ant"][n % 2]) for n in range(20)
    }
    with gzip.open(tmp_path / "rows.tsv.gz", "wt") as file:
        file.write("body\ttopic\n" + "".join(f"t, {n}\t{n % 2}\n" for n in range(20)))
    data = load_labelled_texts({"data_files": str(tmp_path / "rows.tsv.gz"), **columns, "labels": ["0", "1", 2]})
    assert data.labels == ("0", "1", "2")
    assert data.train[0]["text"].startswith("t, ")


def test_a_named_split_is_used_whole_and_only_another_split_is_cut(table, tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nnew one,class 0\nnew two,class 1\n")
    files = {"train": str(table), "test": str(tmp_path / "test.csv")}
    data = load_labelled_texts({"data_files": files, "validation_split": "test", "test_fraction": 0.1})
    assert sorted(row["text"] for row in data.validation) == ["new one", "new two"]
    assert (len(data.train), len(data.test)) == (108, 12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"data_files": "no/such.csv"}, "cannot be found"),
        ({"data_files": "rows.pickle"}, "ends in none of"),
        ({"texts": "docstrings", "path": "x"}, "either texts, or path"),
        ({}, "either texts, or path"),
        ({"texts": "novels"}, "no labelled texts called 'novels'"),
        ({"texts": "docstrings", "pool_fracton": 0.5}, "did you mean 'pool_fraction'"),
        ({"texts": "docstrings", "pool_fraction": 0.9}, "together less than 1"),
        ({"data_files": "{table}", "label_column": "topic"}, "no column 'topic'; it has text, label"),
        ({"data_files": "{table}", "test_split": "test"}, "no split 'test'"),
        ({"data_files": "{table}", "validation_fraction": 0}, "No row is left for validation"),
        ({"data_files": "{table}", "labels": ["class 0", "class 1"]}, "lacks class 2"),
    ],
)
def test_mistakes_are_errors_that_say_what_is_wrong(table, spec, message):
    if "data_files" in spec:
        spec["data_files"] = spec["data_files"].format(table=table)
    with pytest.raises(ValueError, match=message):
        load_labelled_texts(spec)


def test_rows_without_text_or_label_are_refused(tmp_path):
    for row in (",class 0", "some text,"):
        (tmp_path / "rows.csv").write_text(f"text,label\nfine,class 0\n{row}\n")
        with pytest.raises(ValueError, match="Row 1 of the train split"):
            load_labelled_texts({"data_files": str(tmp_path / "rows.csv")})


def test_docstrings_are_many_and_none_is_shared_between_classes():
    rows = load_docstrings()
    texts = [row["text"] for row in rows]
    assert len(texts) == len(set(texts)) > 1000
    assert {row["label"] for row in rows} == set(MODULES)
    assert all("\n" not in text and len(text.split()) >= 4 for text in texts)
    assert {"text": "Convert value to given numeric type T.", "label": "statistics"} in rows
    with pytest.raises(ValueError, match="no source of 'no_such_module'"):
        load_docstrings(["no_such_module"])
