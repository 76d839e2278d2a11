"""Dual-Head KD: where its head reads, the alignment of gradients, and that processes do not change it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_distill_classification.dual_head import DualHead, align
from hf_distill_classification.examples import last_token
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainingArguments,
)

from hf_distill import DistillationTrainer
from hf_distill.testing import classification_dataset, tiny_model, tiny_tokenizer

W, V = [0.5, -1.5], [2.0]


# OptimGradAlign.ga_backward of helper/optimizer.py in penghui-yang/DHKD, on (w . (1, 2))^2 and (w . (2, target)) v.
@pytest.mark.parametrize(
    ("target", "expected"), [(1.0, [[-2.5999999999999996, -11.2], [-0.5]]), (-1.0, [[-1.0, -12.0], [2.5]])]
)
def test_aligned_gradients_are_those_of_the_authors_code(target, expected):
    w, v = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (W, V))
    others = torch.autograd.grad((w @ torch.tensor([1.0, 2.0]).double()).square(), [w, v], materialize_grads=True)
    own = torch.autograd.grad(((w @ torch.tensor([2.0, target]).double()) * v).sum(), [w, v])
    for found, value in zip(align(own, others), expected, strict=True):
        torch.testing.assert_close(found, torch.tensor(value, dtype=torch.float64))


def test_an_opposing_gradient_is_made_orthogonal_to_the_labels_and_an_agreeing_one_is_kept():
    generator = np.random.default_rng(0)
    for sign in (1, -1):
        others = [torch.tensor(generator.standard_normal(shape)) for shape in ((3, 2), (4,))]
        own = [sign * g + 0.1 * torch.tensor(generator.standard_normal(tuple(g.shape))) for g in others]
        kept = [merged - g for merged, g in zip(align(own, others), others, strict=True)]
        product = sum((g * g0).sum() for g, g0 in zip(kept, others, strict=True))
        if sign > 0:
            torch.testing.assert_close(kept, own)
        else:
            assert abs(product) < 1e-10
            assert any(g.abs().max() > 1e-3 for g in kept)


def test_labels_that_give_no_gradient_leave_the_other_gradient_as_it_is():
    (merged,) = align([torch.tensor([1.0, -2.0])], [torch.zeros(2)])
    assert merged.tolist() == [1.0, -2.0]


def resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    )


def roberta():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=64, num_labels=3, **sizes))


@pytest.mark.parametrize(
    ("student", "tap", "width"),
    [
        (lambda: tiny_model("bert_classifier"), "input:classifier", 32),
        (lambda: tiny_model("llama_classifier"), "input:score", 32),
        (lambda: tiny_model("vit"), "input:classifier", 32),
        (resnet, "input:classifier.1", 16),
        (roberta, "input:classifier.out_proj", 32),
    ],
    ids=["bert", "llama", "vit", "resnet", "roberta"],
)
def test_the_second_head_reads_what_the_first_one_reads(student, tap, width):
    loss = DualHead()
    loss.setup(student(), None, None)
    assert loss.student_taps == (tap,)
    assert loss.head.in_features == width


def test_a_causal_classifier_is_read_at_its_last_token_and_not_at_padding():
    features, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    found = last_token(features, mask)
    torch.testing.assert_close(found, torch.stack([features[0, 2], features[1, 3]]))
    torch.testing.assert_close(last_token(features, torch.ones(2).bool()), features[:, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"hidden_width": 0}, "hidden_width is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"classifier": "score"}, "there is none called 'score'. Say which: classifier='classifier'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DualHead(**options).setup(tiny_model("bert_classifier"), None, None)


def test_a_student_without_classes_is_refused():
    with pytest.raises(ValueError, match="dual_head is for classifiers, but the student is a LlamaForCausalLM"):
        DualHead().setup(tiny_model("llama"), None, None)


def one_step(folder, *, weight=1.0, alignment=True, micro_batch=8, accumulation=1, labels=True):
    """The parameters after a step of plain SGD, and the trainer."""
    arguments = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0}
    arguments |= {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    arguments |= {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    head = {"name": "dual_head", "weight": weight, "gradient_alignment": alignment}
    trainer = DistillationTrainer(
        tiny_model("bert_classifier", seed=1),
        TrainingArguments(str(folder), train_sampling_strategy="sequential", **arguments),
        teacher=tiny_model("bert_classifier", seed=2),
        losses=["task", head] if labels else [{**head, "gradient_alignment": False}],
        plugins=["classification"],
        train_dataset=classification_dataset(8),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    before = {name: parameter.detach().clone() for name, parameter in trainer.student.named_parameters()}
    trainer.train()
    return {name: before[name] - value.detach() for name, value in trainer.student.named_parameters()}, trainer


def test_the_trainer_aligns_the_gradients_of_both_losses(tmp_path):
    """By the gradients of two other trainings: of both losses together, and of the second alone."""
    weight = 3.0
    together, _ = one_step(tmp_path, weight=weight, alignment=False)
    own, _ = one_step(tmp_path, weight=weight, labels=False)
    found, _ = one_step(tmp_path, weight=weight)
    others = {name: together[name] - own[name] for name in own}
    product = sum((own[name] * others[name]).sum() for name in own).item()
    square = sum(others[name].square().sum() for name in own).item()
    assert product < 0, "the toy's losses agree, so that nothing is tested"
    for name, value in found.items():
        expected = together[name] - product / square * others[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_cutting_a_step_does_not_change_the_aligned_gradient(tmp_path):
    whole, _ = one_step(tmp_path, weight=3.0)
    for micro_batch, accumulation in ((4, 2), (2, 4)):
        cut, _ = one_step(tmp_path, weight=3.0, micro_batch=micro_batch, accumulation=accumulation)
        for name, value in whole.items():
            torch.testing.assert_close(cut[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_the_second_head_is_saved_beside_the_student_and_not_in_it(tmp_path):
    _, trainer = one_step(tmp_path)
    trainer.save_model()
    _, report = type(trainer.student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert isinstance(trainer.student.distillation_losses["dual_head"].head, nn.Linear)
    assert (tmp_path / "distillation_losses.safetensors").is_file()


@pytest.mark.distributed
def test_two_processes_align_the_gradients_that_one_aligns(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    alone, _ = one_step(tmp_path / "one", weight=3.0)
    steps = json.loads((tmp_path / "two.json").read_text())
    for found in steps:
        for name, value in alone.items():
            torch.testing.assert_close(torch.tensor(found[name]), value, rtol=1e-3, atol=1e-4, msg=name)


def main(folder):
    steps = []
    for micro_batch, accumulation in ((4, 1), (2, 2)):
        step, _ = one_step(folder / "two", weight=3.0, micro_batch=micro_batch, accumulation=accumulation)
        steps.append({name: value.tolist() for name, value in step.items()})
    if os.environ["RANK"] == "0":
        (folder / "two.json").write_text(json.dumps(steps))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
