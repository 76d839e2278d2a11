"""`examples/encoders.py` on a table, and the committed results of `benchmarks/encoder_recipes.py`."""

from __future__ import annotations

import importlib
import json
import random
import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForMaskedLM

from hf_distill.testing import tiny_tokenizer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "encoders.py"


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("encoder_recipes")


def example(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *map(str, arguments)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_a_table_and_a_model_give_a_teacher_and_two_halves_of_it(tmp_path, monkeypatch, capsys):
    generator = random.Random(0)
    texts = [" ".join(f"w{generator.randrange(5, 60)}" for _ in range(8)) for _ in range(60)]
    rows = [f"{text},{'even' if row % 2 else 'odd'}" for row, text in enumerate(texts)]
    (tmp_path / "table.csv").write_text("\n".join(["phrase,kind", *rows, ""]))
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=64, pad_token_id=0, max_position_embeddings=40, **sizes)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    options = ["--max_steps", 2, "--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none"]
    columns = ["--text_column", "phrase", "--label_column", "kind", "--max_length", 32]
    example(
        monkeypatch, "--family", "gottbert", "--model", tmp_path / "model", "--train", tmp_path / "table.csv",
        "--output_dir", tmp_path / "out", *columns, *options,
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert [name for name in ("teacher", "distilled", "alone") if f"{name}: accuracy " in shown] == [
        "teacher", "distilled", "alone",
    ]  # fmt: skip
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "stages" / "01-distilled" / "model")
    assert half.config.num_hidden_layers == 2
    assert set(half.config.label2id) == {"even", "odd"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--family", "bert"], "there is no family 'bert'; there are gottbert"),
     (["--family", "deberta", "--max_steps"], "options come in pairs")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_an_error_that_says_what_is_wrong(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        example(monkeypatch, *arguments, "--train", "x.csv", "--output_dir", "out")
    assert message in capsys.readouterr().err


def test_the_committed_results_are_those_of_the_families_and_the_table_tells_them(recipes):
    report = json.loads(recipes.RESULTS.read_text())
    families = runpy.run_path(str(EXAMPLE))["FAMILIES"]
    assert list(families) == list(recipes.MODELS)
    assert list(report["families"]) == [name for name in families if name in report["families"]]
    for seeds in report["families"].values():
        assert all(one["teacher"] > one["most frequent class"] for one in seeds.values()), (
            "a teacher that knows nothing"
        )
    assert recipes.RESULTS.with_suffix(".md").read_text() == recipes.table(report)


def test_a_gain_in_two_of_three_seeds_is_not_called_shown(recipes):
    one = {"most frequent class": 0.5, "teacher": 0.9, "alone": 0.8, "masked language model, nats": 1.0}

    def verdict(*values):
        seeds = {str(seed): {**one, "distilled": value} for seed, value in enumerate(values)}
        report = {"families": {"deberta": seeds}, "date": "", "versions": {}, "hardware": ""}
        return recipes.table(report).splitlines()[-1].rpartition("| ")[2].removesuffix(" |")

    assert verdict(0.85, 0.86, 0.87) == "yes"
    assert verdict(0.85, 0.86, 0.79) == "no"
    assert verdict(0.801, 0.801, 0.95) == "no"
    assert verdict(0.85, 0.86) == "fewer than 3 seeds"
