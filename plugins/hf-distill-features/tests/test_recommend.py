"""``hf-distill recommend``: what it reads of records, what it makes of them, and what it refuses."""

import json
import subprocess
import sys

import pytest
import yaml
from hf_distill_features.predictor import leave_one_data_set_out, recommend, tabulate
from hf_distill_features.recommend import recommend as command
from hf_distill_features.runs import Run, flatten, read_runs

from hf_distill.testing import tiny_model, tiny_tokenizer

GAINS = {("task", 1e-3): 1.0, ("task", 3e-3): 1.1, ("jsd", 1e-3): 1.2, ("jsd", 3e-3): 1.4}


def record(loss, rate, data, score, **more):
    """A run whose score depends on the loss and the learning rate."""
    config = {
        "output_dir": f"out/{loss}/{rate}/{data}",
        "losses": [loss if loss == "task" else {"name": loss, "weight": 0.5, "beta": 0.1}],
        "learning_rate": rate,
        "warmup_steps": 10,
        "data": {"texts": data, "max_length": 64},
    }
    metrics = {"eval_a_perplexity": score - 1, "eval_b_perplexity": score + 1, "eval_accuracy": 1 / score}
    return {"config": config, "overrides": [], "metrics": metrics, "domains": {"a": 10, "b": 20}, **more}


def write(folder, records):
    for index, one in enumerate(records):
        (folder / f"run{index}").mkdir(parents=True)
        (folder / f"run{index}" / "run.json").write_text(json.dumps(one))


def all_records(datasets=("python", "stories", "news")):
    return [
        record(loss, rate, data, score=scale * (3 - gain))
        for scale, data in zip((10, 25, 60), datasets, strict=False)
        for (loss, rate), gain in GAINS.items()
    ]


def test_a_record_is_its_data_its_options_by_path_and_the_mean_of_the_metrics_that_match(tmp_path):
    write(tmp_path, [record("jsd", "1e-3", "python", 5.0, overrides=["--max_steps", "7", "--bf16", "--seed=3"])])
    (run,) = read_runs([tmp_path], "eval_*perplexity")
    assert run.data == '{"texts": "python"}'
    assert run.score == 5.0
    assert run.size == {"rows": 30, "domains": 2}
    assert run.configuration == {
        **{"losses.jsd": 0.5, "losses.jsd.beta": 0.1, "learning_rate": 0.001, "warmup_steps": 10},
        **{"data.max_length": 64, "max_steps": 7, "bf16": 1},
    }


def test_losses_in_another_order_are_the_same_configuration_and_a_label_stands_for_the_name():
    losses = ["task", {"name": "forward_kl", "label": "near", "weight": {"linear": [1, 0]}, "teacher": "big"}]
    flat = flatten({"losses": losses})
    assert flat == flatten({"losses": losses[::-1]})
    assert flat["losses.task"] == 1
    assert flat["losses.near.teacher"] == "big"


def test_gains_are_shares_of_the_mean_on_the_data_set_and_repetitions_count_once(tmp_path):
    write(tmp_path, [*all_records(), record("task", 1e-3, "python", score=22)])
    rows = tabulate(read_runs([tmp_path], "eval_*perplexity"), lower_is_better=True)
    python = {json.dumps(row.configuration): row for row in rows if "python" in row.data}
    again = [row for row in python.values() if row.runs == 2]
    assert [row.score for row in again] == [21]  # of 20 and 22
    mean = (21 + 19 + 18 + 16) / 4
    assert sorted(row.gain for row in python.values()) == pytest.approx([1 - s / mean for s in (21, 19, 18, 16)])
    assert all("warmup_steps" not in row.configuration for row in rows), "what all runs share says nothing"


def test_where_all_data_sets_agree_the_best_configuration_is_recommended_and_nothing_is_regretted(tmp_path):
    write(tmp_path, all_records())
    rows = tabulate(read_runs([tmp_path], "eval_*perplexity"), lower_is_better=True)
    best = recommend(rows, {})[0]
    assert (best.configuration["losses.jsd"], best.configuration["learning_rate"]) == (0.5, 3e-3)
    assert best.num_data == 3
    for check in leave_one_data_set_out(rows):
        gains = [row.gain for row in rows if row.data == check.data]
        assert check.regret == 0
        assert check.random_regret == pytest.approx(max(gains) - sum(gains) / 4)
        assert check.error < 0.05


def test_a_data_set_is_predicted_by_the_others_alone():
    """Two data sets that contradict each other: whoever looked at the one left out would not regret."""
    runs = [
        Run(data, {"rows": 1.0}, {"rate": rate}, score)
        for data, scores in (("one", (1.0, 2.0)), ("other", (2.0, 1.0)))
        for rate, score in zip((0.1, 0.2), scores, strict=True)
    ]
    checks = leave_one_data_set_out(tabulate(runs, lower_is_better=False))
    assert [check.regret for check in checks] == pytest.approx([2 / 3, 2 / 3])
    assert all(check.regret > check.random_regret for check in checks)


def test_the_size_of_the_data_decides_where_past_runs_say_so():
    runs = [
        Run(f"{rows}", {"rows": rows, "domains": 1.0}, {"loss": loss}, 2.0 if (rows > 1000) == (loss == "jsd") else 1.0)
        for rows in (10.0, 20.0, 30.0, 10_000.0, 20_000.0, 30_000.0)
        for loss in ("task", "jsd")
    ]
    rows = tabulate(runs, lower_is_better=False)
    assert recommend(rows, {"rows": 15.0})[0].configuration == {"loss": "task"}
    assert recommend(rows, {"rows": 15_000.0})[0].configuration == {"loss": "jsd"}


def test_the_command_prints_both_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    write(tmp_path, all_records())
    assert command([str(tmp_path), "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "12 runs of 4 configurations on 3 data sets" in printed
    assert printed.index("losses.jsd: 0.5") < printed.index("data set left out")
    assert "losses.task" not in printed
    assert command([str(tmp_path), "--score", "eval_accuracy", "--better", "lower"]) == 0
    assert capsys.readouterr().out.index("losses.task") < printed.index("data set left out")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "There is no run.json"),
        (all_records(["python"]), "4 runs of 4 configurations on 1 data sets"),
        ([record("task", 1e-3, data, 5) for data in ("python", "news")], "there is one only"),
        ([{"config": {}}], "is not a record"),
        ([record("task", 1e-3, "python", 5, metrics={"eval_loss": 1})], "it has eval_loss. Choose"),
        ([record("task", 1e-3, "python", float("nan"))], "no finite metric"),
    ],
)
def test_too_few_runs_and_records_that_are_none_are_refused(tmp_path, records, message):
    write(tmp_path, records)
    with pytest.raises(ValueError, match=message):
        command([str(tmp_path)])


def test_what_the_train_command_leaves_behind_is_read(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    words = sorted(tiny_tokenizer().get_vocab())
    texts = [json.dumps({"text": " ".join(words[start:])}) for start in range(40)]
    (tmp_path / "text.jsonl").write_text("\n".join(texts))
    config = {
        "output_dir": str(tmp_path / "out"),
        "teacher": str(tmp_path / "teacher"),
        "student": {"builder": "layer_drop", "layers": 1},
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 16, "test_fraction": 0.3},
        "use_cpu": True,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["train", str(tmp_path / "config.yaml"), "--max_steps", "1"]
    subprocess.run([sys.executable, "-m", "hf_distill.cli", *arguments], check=True, timeout=240)
    (run,) = read_runs([tmp_path], "eval_*perplexity")
    assert run.score > 1
    assert run.configuration["max_steps"] == 1
    assert run.configuration["student.builder"] == "layer_drop"
