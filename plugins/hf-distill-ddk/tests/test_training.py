"""DDK in small trainings. Runs of two processes start this file as a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_distill_ddk.recursion import log_factors_initial, log_factors_update
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer


def student():
    return tiny_model("llama", seed=1)


def teacher():
    return tiny_model("llama", seed=2, num_hidden_layers=3)


def probe_data():
    return causal_lm_dataset(21, num_domains=2, seed=1)


def train(folder, *, resume_from=None, batch_size=8, **options):
    args = DistillationArguments(
        str(folder),
        max_steps=12,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        plugins=["ddk"],
        selector={"name": "ddk", "interval": 4, **options},
        losses=[{"name": "task", "weight": 1.0}, {"name": "forward_kl", "weight": 0.2, "temperature": 1.0}],
    )
    trainer = DistillationTrainer(
        student(),
        args,
        teacher=teacher(),
        train_dataset=causal_lm_dataset(60, num_domains=2),
        probe_dataset=probe_data(),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
    )
    trainer.train(resume_from and str(folder / f"checkpoint-{resume_from}"))
    return trainer


@pytest.mark.parametrize("measure", ["perplexity", "bits_per_byte"])
def test_a_training_follows_the_recursion_on_what_the_probe_measures(tmp_path, measure):
    trainer = train(tmp_path, measure=measure)
    history = trainer.plan.selector.history
    assert [entry["step"] for entry in history] == [0, 4, 8, 12]
    log_factors = log_factors_initial(np.array(list(history[0]["ratios"].values())))
    for entry in history[1:]:
        log_factors = log_factors_update(log_factors, np.array(list(entry["ratios"].values())), alpha=0.5)
        np.testing.assert_allclose(list(entry["weights"].values()), np.exp(log_factors), rtol=1e-12)
    logged = [entry for entry in trainer.state.log_history if "mixture/d0" in entry]
    assert len(logged) == 12
    assert logged[4]["mixture/d0"] == history[1]["weights"]["d0"]


def test_a_resumed_training_ends_where_the_uninterrupted_one_does(tmp_path):
    whole = train(tmp_path)
    for step in (4, 6):
        resumed = train(tmp_path, resume_from=step)
        assert resumed.plan.selector.history == whole.plan.selector.history
        expected, found = ({e["step"]: e["loss"] for e in t.state.log_history if "loss" in e} for t in (whole, resumed))
        assert found == expected


def test_the_first_ratios_are_those_of_token_means_over_the_probe_set(tmp_path):
    ratios = train(tmp_path).plan.selector.history[0]["ratios"]
    for domain in ("d0", "d1"):
        means = []
        for model in (student(), teacher()):
            values = []
            for row in probe_data().filter(lambda row, domain=domain: row["domain"] == domain):
                tokens = torch.tensor(row["input_ids"])
                logits = model(tokens[None]).logits[0, :-1]
                values.append(torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none"))
            means.append(torch.cat(values).mean().item())
        assert ratios[domain] == pytest.approx(np.exp(means[0] - means[1]), rel=1e-4)


@pytest.mark.distributed
def test_two_processes_follow_the_recursion_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    histories = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert histories[0] == histories[1]
    for expected, found in zip(train(tmp_path / "one").plan.selector.history, histories[0], strict=True):
        assert found["ratios"] == pytest.approx(expected["ratios"], rel=1e-4)
        assert found["weights"] == pytest.approx(expected["weights"], rel=1e-4)


def main(folder):
    history = train(folder / "two", batch_size=4).plan.selector.history
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(history))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
