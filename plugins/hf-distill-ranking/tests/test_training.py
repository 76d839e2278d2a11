"""Tiny trainings: rankings get better, evaluation is exact, students are stock models, runs resume, two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hf_distill_ranking.measures import rank_quality
from hf_distill_ranking.scoring import embed
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from hf_distill.testing import tiny_model

from . import two_processes
from .rankings import cross_encoder, make_rows, make_trainer

COLUMN = {"column": "teacher_scores"}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "losses",
    [
        [{"name": "margin_mse", **COLUMN}],
        [{"name": "listwise_kl", "temperature": 2.0, **COLUMN}],
        [{"name": "contrastive", "scale": 10.0, "normalize": True, "in_batch_negatives": True}],
        ["contrastive", {"name": "margin_mse", "weight": 0.05, **COLUMN}],
    ],
    ids=["margins", "lists", "labels", "both"],
)
def test_the_student_ranks_better_than_before(tmp_path, losses, bf16):
    trainer = make_trainer(tmp_path, losses, max_steps=40, num_queries=24, logging_steps=20, bf16=bf16)
    trainer.eval_dataset = trainer.train_dataset
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_mrr@10"] > before["eval_mrr@10"] + 0.1


def ranked_by_hand(model, tokenizer, rows):
    """What the evaluation should find, from nothing but a folder."""
    scores = [embed(model, tokenizer, row["documents"]) @ embed(model, tokenizer, [row["query"]])[0] for row in rows]
    return rank_quality(scores, [row["labels"] for row in rows])


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_metrics_do_not_depend_on_the_batches_of_an_evaluation(tmp_path, batch_size):
    trainer = make_trainer(tmp_path, ["contrastive"], per_device_eval_batch_size=batch_size)
    found = trainer.evaluate()
    expected = ranked_by_hand(trainer.student, trainer.processing_class, make_rows(6, seed=1))
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)


def test_the_exported_student_is_a_plain_encoder(tmp_path):
    trainer = make_trainer(tmp_path, ["margin_mse"], teacher=cross_encoder())
    trainer.train()
    trainer.save_model()
    model, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == "BertModel"
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = trainer.evaluate()
    expected = ranked_by_hand(model, tokenizer, make_rows(6, seed=1))
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)


def test_a_run_resumed_within_an_epoch_ends_with_the_same_student(tmp_path):
    options = {"teacher": cross_encoder(), "gradient_accumulation_steps": 2, "max_steps": 6}
    sampling = {"train_sampling_strategy": "random", "per_device_train_batch_size": 2}
    straight = make_trainer(tmp_path, ["margin_mse"], save_strategy="steps", save_steps=2, **options, **sampling)
    straight.train()
    resumed = make_trainer(tmp_path, ["margin_mse"], **options, **sampling)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, value in straight.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


@pytest.mark.distributed
@pytest.mark.parametrize("backend", ["ddp", "zero3"])
def test_two_processes_take_the_step_of_one_and_measure_the_same(tmp_path, backend):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        two_processes.__file__,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path), backend], capture_output=True, text=True, check=False, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    start = tiny_model("bert", seed=1).state_dict()
    expected = two_processes.step(make_trainer, cross_encoder, tmp_path / "alone", (8, 1))
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    for cut in two_processes.CUTS:
        folder = tmp_path / f"{cut[0]}x{cut[1]}"
        found = load_file(folder / "model.safetensors")
        moved, ours = (torch.cat([(one[k] - start[k]).flatten() for k in alone]) for one in (alone, found))
        assert (moved - ours).norm() < 1e-4 * moved.norm()
        assert json.loads(folder.with_suffix(".json").read_text()) == pytest.approx(expected, rel=1e-4)
