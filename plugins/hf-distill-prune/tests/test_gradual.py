"""One gradual run: a family of students, each pruned from the one before, taken up again where it was stopped."""

from __future__ import annotations

import json

import pytest
import torch
from hf_distill_prune.presets import gradual
from transformers import DataCollatorWithPadding, TrainerCallback

from hf_distill import StagesDriver, TrainingData, load_student
from hf_distill.testing import classification_dataset, tiny_model, tiny_tokenizer

from .conftest import output


class Stop(TrainerCallback):
    """Breaks off in the middle of a training, as a kill would."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.fixture
def run(tmp_path, table):
    """Starts the run in a folder; `stop` names the stage that breaks off."""
    tiny_model("bert_classifier").save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    (tmp_path / "texts.txt").write_text("w7 w8 w9 w20\nw11 w12\nw30 w31 w32 w33 w34\n" * 8)
    (tmp_path / "table.json").write_text(json.dumps(table.to_dict()))
    tokenizer = tiny_tokenizer()
    data = TrainingData(
        classification_dataset(32), classification_dataset(8, seed=1), collator=DataCollatorWithPadding(tokenizer)
    )

    def start(folder, stop=None):
        stages = gradual(
            teacher=str(tmp_path / "teacher"),
            speed_ups=[1.5, 2.5],
            texts=str(tmp_path / "texts.txt"),
            pruning={"table": str(tmp_path / "table.json"), "trials": 2},
        )
        return StagesDriver(
            stages,
            output_dir=tmp_path / folder,
            tokenizer=tokenizer,
            plugins=["prune"],
            defaults={
                **{"data": data, "max_steps": 5, "learning_rate": 1e-3, "use_cpu": True, "disable_tqdm": True},
                **{"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8},
            },
            callbacks=lambda name: [Stop()] if name == stop else [],
        ).run()

    return start


def test_a_gradual_run_that_was_stopped_gives_the_same_family(run, table, tmp_path):
    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop="speed-up-2.5")
    resumed = run("stopped")
    for name, folder in (("speed-up-1.5", "00-speed-up-1.5"), ("speed-up-2.5", "01-speed-up-2.5")):
        ours, theirs = (
            load_student(tmp_path / one / "stages" / folder / "model", plugins=["prune"])
            for one in ("whole", "stopped")
        )
        assert torch.equal(output(ours), output(theirs)), name
        shape = ours.config.hf_distill["transforms"][-1]["options"]
        assert table.speed_up(shape["heads"], shape["columns"]) >= float(name.rpartition("-")[2])
    assert resumed.records[1].metrics["eval_forward_kl_loss"] == pytest.approx(
        whole.records[1].metrics["eval_forward_kl_loss"]
    )


def test_speed_ups_that_fall_are_refused():
    with pytest.raises(ValueError, match=r"speed_ups is \[3, 2\]; expected numbers that rise"):
        gradual(teacher="t", speed_ups=[3, 2], texts="x")
