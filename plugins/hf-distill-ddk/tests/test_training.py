"""DDK in small trainings."""

from __future__ import annotations

import numpy as np
import pytest
from hf_distill_ddk.recursion import factors_initial, factors_update
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer


def train(folder, *, resume_from=None, **options):
    args = DistillationArguments(
        str(folder),
        max_steps=12,
        per_device_train_batch_size=8,
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
        tiny_model("llama", seed=1),
        args,
        teacher=tiny_model("llama", seed=2, num_hidden_layers=3),
        train_dataset=causal_lm_dataset(60, num_domains=2),
        probe_dataset=causal_lm_dataset(20, num_domains=2, seed=1),
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
    factors = factors_initial(np.array(list(history[0]["ratios"].values())))
    for entry in history[1:]:
        factors = factors_update(factors, np.array(list(entry["ratios"].values())), alpha=0.5)
        np.testing.assert_allclose(list(entry["weights"].values()), factors, rtol=1e-12)
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
