"""Documents from anywhere, as packed rows of one domain."""

from __future__ import annotations

import gzip
import json

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_distill.data.language_modeling import TextData, load_packed_text, load_text_data, pack, spread_by_domain

WORDS = ["<end>", *(f"w{number}" for number in range(40))]


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.fixture
def jsonl(tmp_path):
    def write(rows, name="data.jsonl"):
        path = tmp_path / name
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write


def words(*numbers):
    return " ".join(f"w{number}" for number in numbers)


def test_rows_hold_one_domain_and_every_token_once_in_order(tokenizer):
    documents = Dataset.from_list(
        [
            {"text": words(0, 1, 2, 3, 4), "domain": "a"},
            {"text": words(10, 11), "domain": "b"},
            {"text": words(5, 6), "domain": "a"},
        ]
    )
    rows = pack(documents, tokenizer, max_length=4).to_list()
    # Worked out by hand: w<n> is token n + 1, and 0 ends each document.
    by_domain = {domain: [row for row in rows if row["domain"] == domain] for domain in "ab"}
    assert [row["input_ids"] for row in by_domain["a"]] == [[1, 2, 3, 4], [5, 0, 6, 7]]
    assert [row["labels"] for row in by_domain["b"]] == [[11, 12, 0, -100]]
    assert [row["attention_mask"] for row in by_domain["b"]] == [[1, 1, 1, 0]]
    assert [row["attention_mask"] for row in by_domain["a"]] == [[1] * 4] * 2


def test_padding_is_never_learned(tokenizer):
    documents = Dataset.from_list([{"text": words(*range(n)), "domain": str(n)} for n in range(1, 12)])
    for row in pack(documents, tokenizer, max_length=8):
        real = row["attention_mask"]
        assert [label == -100 for label in row["labels"]] == [mask == 0 for mask in real]
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_many_documents_over_batches_lose_no_token(tokenizer):
    documents = Dataset.from_list([{"text": words(n % 40), "domain": "ab"[n % 2]} for n in range(1000)])
    rows = pack(documents, tokenizer, max_length=7)
    tokens = [label for row in rows if row["domain"] == "b" for label in row["labels"] if label != -100]
    assert tokens == [token for n in range(1, 1000, 2) for token in (n % 40 + 1, 0)]


def test_texts_of_the_python_installation_have_train_probe_and_test_splits(tokenizer):
    data = load_text_data({"texts": {"name": "python", "share": 0.02, "test_fraction": 0.3, "probe_fraction": 0.3}})
    assert set(data) == {"train", "probe", "test"}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_local_files_of_every_kind_give_the_same_documents(tmp_path, jsonl, ending):
    rows = [{"words": words(n), "source": n % 3} for n in range(30)]
    path = str(tmp_path / f"data.{ending}")
    if ending.startswith("jsonl"):
        jsonl(rows, f"data.{ending}")
    elif ending == "csv":
        Dataset.from_list(rows).to_csv(path)
    else:
        Dataset.from_list(rows).to_parquet(path)
    spec = {"text_column": "words", "domain_column": "source", "test_fraction": 0.3, "probe_fraction": 0.3}
    data = load_text_data({"data_files": path, **spec})
    found = sorted((row["text"], row["domain"]) for split in data.values() for row in split)
    assert found == sorted((row["words"], str(row["source"])) for row in rows)


def test_text_without_domains_is_one_domain(tmp_path, tokenizer):
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(words(n % 40, n // 40) for n in range(200)))
    data = load_packed_text({"data_files": str(path), "max_length": 4}, tokenizer)
    assert {split: set(rows["domain"]) for split, rows in data.items()} == {split: {"all"} for split in data}


def test_copies_of_a_document_are_never_on_both_sides_of_the_cut(jsonl):
    rows = [{"text": words(n % 25)} for n in range(100)]
    data = load_text_data({"data_files": jsonl(rows), "test_fraction": 0.3, "probe_fraction": 0.2})
    train, probe, test = (set(data[split]["text"]) for split in ("train", "probe", "test"))
    assert not train & test
    assert not train & probe
    assert not probe & test
    assert len(train | probe | test) == 25


def test_named_splits_are_used_and_nothing_is_cut_for_them(jsonl):
    train, test = [{"text": words(n)} for n in range(20)], [{"text": words(n)} for n in range(30, 33)]
    files = {"train": jsonl(train, "train.jsonl"), "held_out": jsonl(test, "test.jsonl")}
    data = load_text_data({"data_files": files, "test_split": "held_out", "probe_fraction": 0})
    assert set(data) == {"train", "test"}
    assert data["train"]["text"][:] == [row["text"] for row in train]
    assert data["test"]["text"][:] == [row["text"] for row in test]


def test_the_probe_keeps_rows_of_every_domain_from_all_over_the_split():
    rows = Dataset.from_dict({"domain": ["a"] * 50 + ["b"] * 3, "number": list(range(53))})
    assert spread_by_domain(rows, 5)["number"][:] == [0, 12, 24, 37, 49, 50, 51, 52]


def test_columns_and_splits_that_are_not_there_are_named_with_what_is(jsonl):
    path = jsonl([{"content": "w1", "count": 1}])
    with pytest.raises(ValueError, match="no column 'text'; it has content, count"):
        load_text_data({"data_files": path})
    with pytest.raises(ValueError, match="no column 'topic'; it has content, count"):
        load_text_data({"data_files": path, "text_column": "content", "domain_column": "topic"})
    with pytest.raises(ValueError, match="'count' holds int64; expected text"):
        load_text_data({"data_files": path, "text_column": "count"})
    with pytest.raises(ValueError, match="no split 'validation'; the data has train"):
        load_text_data({"data_files": path, "text_column": "content", "test_split": "validation"})


def test_an_example_without_a_domain_is_named(jsonl):
    path = jsonl([{"text": "w1", "domain": "a"}, {"text": "w2", "domain": None}])
    with pytest.raises(ValueError, match="Row 1 of the train split has no 'domain'"):
        load_text_data({"data_files": path})


def test_a_named_split_without_text_is_an_error_and_not_an_empty_evaluation(jsonl):
    files = {"train": jsonl([{"text": "w1"}], "train.jsonl"), "test": jsonl([{"text": ""}], "test.jsonl")}
    with pytest.raises(ValueError, match="The test split holds no text"):
        load_text_data({"data_files": files, "test_split": "test", "probe_fraction": 0})


def test_too_few_documents_for_a_cut_split_leave_it_out_and_say_so(jsonl, caplog):
    data = load_text_data({"data_files": jsonl([{"text": words(n)} for n in range(3)]), "test_fraction": 0})
    assert set(data) == {"train"}
    assert "No document fell into the probe split" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"text": "python"}, r"no option 'text' \(did you mean 'texts'\?\)"),
        ({}, "takes either texts, or path"),
        ({"texts": "python", "path": "json"}, "takes either texts, or path"),
        ({"texts": "python", "max_length": 1}, "max_length is 1"),
        ({"texts": "python", "test_fraction": 0.2}, "takes test_fraction for what is loaded, not beside texts"),
        ({"data_files": "notes.doc"}, r"'notes.doc' ends in none of .json"),
        ({"data_files": "absent/*.jsonl"}, "data cannot be found"),
    ],
)
def test_a_spec_that_makes_no_sense_is_one_clear_error(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_text_data(TextData.parse(spec))
