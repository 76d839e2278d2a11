"""TAID against NumPy, the values of the authors' code, and the clock of a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.taid import TAID
from scipy.special import log_softmax
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from hf_distill import DistillationArguments, DistillationTrainer, StepInfo
from hf_distill.testing import causal_lm_dataset, conformance, tiny_model, tiny_tokenizer


def in_numpy(student, teacher, t=0.4):
    log_p, log_q = log_softmax((1 - t) * student + t * teacher, -1), log_softmax(student, -1)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


test_conformance = conformance(
    "taid",
    plugins=["lm"],
    reference=in_numpy,
    lacks={"finite_difference_gradient": "the student's part of the mixture is a constant; its gradient is q - p_t"},
)


def at(t):
    loss = TAID(t_start=0.0)
    loss.state.copy_(torch.tensor([t, torch.inf, 0.0]).view(torch.int32))
    return loss


def test_value_and_gradient_are_those_of_the_authors_but_for_the_entropy_of_the_target(waves):
    student, teacher = waves(0.0).requires_grad_(), waves(1.0)
    values = at(0.55)(student, teacher)
    values.sum().backward()
    log_p = (0.45 * student.detach() + 0.55 * teacher).log_softmax(-1)
    cross_entropy = (values.detach() - (log_p.exp() * log_p).sum(-1)).mean()
    assert cross_entropy.item() == pytest.approx(1.9742571115493774, rel=1e-6)
    expected = [-0.0940897763, 0.1983498484, -0.0013884557, -0.1867765784, 0.0417499281, -0.0063475054, 0.0757307410]
    np.testing.assert_allclose(student.grad[0, :7], expected, rtol=1e-5)
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - log_p.exp(), rtol=1e-6, atol=1e-8)


def steps(loss, losses, max_steps):
    loss.label = "taid"
    for step, value in enumerate(losses, 1):
        loss.on_step_end(StepInfo(step=step, max_steps=max_steps, losses={"taid": value}))
        yield loss.t.item()


def test_t_moves_as_the_authors_code_moves_it():
    found = list(steps(TAID(alpha=0.3, beta=0.5), [3.0, 2.5, 2.6, 2.0, 1.9], 10))
    assert found == pytest.approx([0.4, 0.52, 0.5927799, 0.6577127, 0.7113162], abs=2e-7)


def test_without_adaptation_t_is_linear():
    found = list(steps(TAID(adaptive=False), [1.0] * 4, 4))
    assert found == pytest.approx([0.55, 0.7, 0.85, 1.0])


def test_in_a_short_run_the_adaptive_term_does_not_show_and_a_warning_says_so(monkeypatch):
    """The authors' own defaults give the linear way here, to the last bit of float32; so do ours."""
    messages = []
    monkeypatch.setattr("hf_distill_lm.taid.logger.warning_once", messages.append)
    falling = [3.0 / step for step in range(1, 21)]
    found = list(steps(TAID(), falling, 20))
    assert found[1:] == pytest.approx([0.4 + 0.6 * step / 20 for step in range(2, 21)], abs=1e-7)
    assert "fewer than about 4000 steps" in messages[0]
    assert list(steps(TAID(alpha=0.5), falling, 20))[10] > found[10] + 0.1
    assert len(messages) == 1


def test_t_stays_exact_in_half_precision():
    loss = TAID().bfloat16().to(torch.float16)
    assert loss.t.item() == np.float32(0.4)


def test_words_that_the_teacher_excludes_give_finite_values_even_at_the_start():
    student = torch.randn(3, 7, requires_grad=True)
    teacher = torch.randn(3, 7).masked_fill(torch.arange(7) % 2 == 0, -torch.inf)
    for t in (0.0, 0.5, 1.0):
        values = at(t)(student, teacher)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
    assert (at(0.0)(student, teacher).abs() < 1e-6).all()


@pytest.mark.parametrize("options", [{"t_start": 1.0}, {"t_end": 1.5}, {"alpha": -1}, {"beta": 1}])
def test_an_option_out_of_its_range_is_an_error(options):
    with pytest.raises(ValueError, match="expected"):
        TAID(**options)


class Watch(TrainerCallback):
    """Notes t and the logged mean after every step."""

    def __init__(self, loss):
        self.loss, self.t = loss, []

    def on_step_end(self, args, state, control, **kwargs):
        self.t.append(self.loss.t.item())


def train(folder, *, batch_size=8, accumulation=1, steps=6, resume=False, **options):
    args = DistillationArguments(
        str(folder),
        **{"max_steps": steps, "save_steps": 3, "logging_steps": 1, "learning_rate": 1e-3, "seed": 3},
        **{"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation},
        **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "plugins": ["lm"]},
        losses=[{"name": "taid", "label": "moving", "alpha": 0.5, "beta": 0.5, **options}],
    )
    trainer = DistillationTrainer(
        tiny_model("llama", seed=1),
        args,
        teacher=tiny_model("llama", seed=2, num_hidden_layers=3),
        train_dataset=causal_lm_dataset(60),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
    )
    watch = Watch(trainer.plan.losses[0].module)
    trainer.add_callback(watch)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
    return trainer, watch.t


def test_t_moves_once_per_optimizer_step_by_the_mean_over_all_micro_batches(tmp_path):
    """The authors' code moves it in every micro-batch, so that accumulation would make it faster."""
    trainer, whole = train(tmp_path / "whole", steps=12)
    _, cut = train(tmp_path / "cut", steps=12, batch_size=2, accumulation=4)
    assert cut == pytest.approx(whole, abs=1e-5)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    expected = list(steps(TAID(alpha=0.5, beta=0.5), logged, 12))
    assert whole == pytest.approx(expected, abs=1e-3)  # logged losses are rounded
    assert whole[1] > 0.4 + 0.6 * 2 / 12 + 0.01, "faster than linear"


def test_a_resumed_training_goes_on_with_its_t_and_momentum(tmp_path):
    _, whole = train(tmp_path)
    _, resumed = train(tmp_path, resume=True)
    assert resumed == whole[3:]
