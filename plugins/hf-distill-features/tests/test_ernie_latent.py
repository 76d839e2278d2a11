"""ERNIE-Tiny's latent loss against NumPy on what the models themselves return."""

import pytest
import torch

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model


def scores(model, block, hidden):
    """What goes into the softmax of a block of BERT, without padding."""
    attention = model.bert.encoder.layer[block].attention.self
    query, key = (part(hidden).unflatten(-1, (4, -1)).transpose(1, 2) for part in (attention.query, attention.key))
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).detach()


def test_parts_are_the_squared_errors_of_scores_and_hidden_states_of_every_second_block(tmp_path):
    student = tiny_model("bert_mlm", num_hidden_layers=2)
    teacher = tiny_model("bert_mlm", num_hidden_layers=4, hidden_size=48, seed=1)
    rows = causal_lm_dataset(2, min_length=8, max_length=8)
    arguments = DistillationArguments(str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True)
    losses = ["ernie_latent"]
    trainer = DistillationTrainer(
        student, arguments, teacher=teacher, losses=losses, plugins=["features"], train_dataset=rows
    )
    measured = trainer.evaluate(rows)
    loss = trainer.plan.losses[0].function
    assert loss.hidden.pairs == [(0, 1), (1, 3)]
    inputs = {"input_ids": torch.tensor(rows["input_ids"])}
    with torch.no_grad():
        ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
    hidden = attention = 0.0
    for pair, (s, t) in enumerate(((0, 1), (1, 3))):
        mapped = ours.hidden_states[s + 1].numpy() @ loss.hidden.projections[pair].weight.detach().numpy().T
        hidden += ((mapped - theirs.hidden_states[t + 1].numpy()) ** 2).mean() / 2
        attention += (
            scores(student, s, ours.hidden_states[s]) - scores(teacher, t, theirs.hidden_states[t])
        ).square().mean() / 2
    assert measured["eval_ernie_latent/hidden_loss"] == pytest.approx(hidden, rel=1e-4)
    assert measured["eval_ernie_latent/attention_loss"] == pytest.approx(attention.item(), rel=1e-4)
