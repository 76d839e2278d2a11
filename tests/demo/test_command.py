"""``hf-distill demo``: three students, a table, a picture, and a teacher that is trained once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from matplotlib.image import imread

from hf_distill.cli.main import main
from hf_distill.demo import command as demo_module
from hf_distill.demo import report as demo_report
from hf_distill.demo import teacher as demo_teacher
from hf_distill.demo.command import QUICK, demo, teacher_recipe
from hf_distill.drivers.config_file import read_config
from hf_distill.drivers.training import run
from hf_distill.plugins.manager import installed_plugins

pytest.importorskip("hf_distill_ddk", reason="the demo's third student needs the plugin ddk")
TINY = replace(
    QUICK,
    data={**QUICK.data, "texts": {**QUICK.data["texts"], "share": 0.03}, "max_length": 32, "test_rows": 4},
    teacher_steps=4,
    steps=4,
    interval=2,
    vocab_size=300,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A cache and an output folder, with everything small."""
    place = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DISTILL_HOME", str(place / "home"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", place / "datasets")
        patch.setattr(demo_module, "QUICK", TINY)
        patch.setattr(demo_module, "quiet_libraries", lambda: None)  # it is for the whole process
        yield place


@pytest.fixture(scope="module")
def finished(place):
    """The output folder of a whole demo."""
    assert demo(["--quick", "--output-dir", str(place / "out")]) == 0
    return place / "out"


def test_the_table_holds_what_the_runs_measured(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results) == ["teacher", "cross-entropy", "KD", "KD + DDK"]
    for title, folder in [("cross-entropy", "cross_entropy"), ("KD", "kd"), ("KD + DDK", "kd_ddk")]:
        metrics = json.loads((finished / folder / "run.json").read_text())["metrics"]
        for domain, perplexity in results[title]["perplexities"].items():
            assert perplexity == metrics[f"eval_{domain}_perplexity"]
            ratio = perplexity / results["teacher"]["perplexities"][domain]
            assert results[title]["ratios"][domain] == pytest.approx(ratio)
        assert results[title]["num_parameters"] * 4 <= results["teacher"]["num_parameters"] * 1.2


def test_the_three_students_differ_in_losses_and_selector_alone(finished):
    configs = [read_config(finished / name / "config.yaml") for name in ("cross_entropy", "kd", "kd_ddk")]
    for config in configs:
        for name in ("losses", "selector", "plugins", "output_dir"):
            config.pop(name, None)
    assert configs[0] == configs[1] == configs[2]
    histories = [json.loads((finished / name / "run.json").read_text()) for name in ("cross_entropy", "kd", "kd_ddk")]
    assert len({record["num_parameters"] for record in histories}) == 1


def test_a_students_own_configuration_gives_the_same_student_again(finished, tmp_path):
    config = read_config(finished / "kd" / "config.yaml")
    again = run(config, overrides=["--output_dir", str(tmp_path)])
    before = json.loads((finished / "kd" / "run.json").read_text())["log_history"]
    assert [e["loss"] for e in before if "loss" in e] == [e["loss"] for e in again.state.log_history if "loss" in e]


def test_the_mixture_is_the_one_that_was_drawn_from(finished):
    results = json.loads((finished / "results.json").read_text())
    natural = results["KD"]["mixtures"]["0"]
    assert results["KD"]["mixtures"] == {"0": natural, "4": natural}
    moved = results["KD + DDK"]["mixtures"]
    assert moved["0"] == natural
    assert moved["2"] != natural
    assert moved["4"] == moved["2"]  # the last interval's; what follows the last step is never drawn


def test_the_picture_is_drawn(finished):
    pixels = imread(finished / "report.png")
    assert pixels.shape[1] > 1000
    assert pixels.min() < pixels.max()


def test_the_lines_that_are_printed_load_and_use_the_student(finished, capsys):
    exec("\n".join(demo_report.usage(finished / "kd_ddk")), {})
    assert "def " in capsys.readouterr().out


def test_the_teacher_is_trained_once_and_again_when_its_recipe_changes(finished, place, monkeypatch):
    trained = []
    monkeypatch.setattr(demo_teacher, "run", lambda config, **_: trained.append(config) or _fake(config))
    console = demo_report.Console(quiet=True)
    folder = demo_teacher.teacher_folder(teacher_recipe(TINY), console)
    assert (folder, trained) == (demo_teacher.teacher_folder(teacher_recipe(TINY), console), [])
    other = demo_teacher.teacher_folder(teacher_recipe(replace(TINY, teacher_steps=5)), console)
    assert other != folder
    assert [config["max_steps"] for config in trained] == [5]


def _fake(config):
    shutil.copytree(config["student"], config["output_dir"])


def test_an_interrupt_leaves_no_half_trained_teacher(finished, place, monkeypatch):
    def interrupted(config, **_):
        _fake(config)
        raise KeyboardInterrupt

    before = sorted((place / "home" / "demo").iterdir())
    monkeypatch.setattr(demo_teacher, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo_teacher.teacher_folder(teacher_recipe(replace(TINY, teacher_steps=6)), demo_report.Console(quiet=True))
    assert sorted((place / "home" / "demo").iterdir()) == before


def test_the_cache_is_where_it_was_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DISTILL_HOME", str(tmp_path / "own"))
    assert demo_teacher.home() == tmp_path / "own"
    monkeypatch.delenv("HF_DISTILL_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert demo_teacher.home() == tmp_path / "cache" / "hf_distill"


def test_a_missing_plugin_is_said_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    others = [found for found in installed_plugins() if found[0].name != "ddk"]
    monkeypatch.setattr(demo_module, "installed_plugins", lambda: others)
    assert main(["demo", "--output-dir", str(tmp_path / "out")]) == 2
    assert "pip install -e plugins/hf-distill-ddk" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_is_a_hint_and_no_picture(finished, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo_report, "find_spec", lambda name: None)
    teacher = read_config(finished / "kd" / "config.yaml")["teacher"]["source"]
    (tmp_path / "out").mkdir()
    folders = {"KD": finished / "kd", "KD + DDK": finished / "kd_ddk"}
    demo_report.report(demo_report.Path(teacher), folders, tmp_path / "out", demo_report.Console())
    printed = capsys.readouterr().out
    assert "hf-distill[report]" in printed
    assert not (tmp_path / "out" / "report.png").exists()


def test_configurations_are_written_as_yaml_that_people_can_read(finished):
    text = (finished / "kd_ddk" / "config.yaml").read_text()
    assert yaml.safe_load(text)["selector"] == {"name": "ddk", "interval": 2, "max_ratio": 6.0}
    assert "!!python" not in text
