"""CRD against the values of the official code, and what its memory does."""

import math

import numpy as np
import pytest
import torch
from hf_distill_features.crd import CRD
from hf_distill_features.memory import ContrastMemory, contrast

from hf_distill import Batch, Signal, StepInfo
from hf_distill.testing import tiny_model

NUM_EXAMPLES, WIDTH = 7, 4
STEP_INFO = StepInfo(step=1, max_steps=2, losses={})


def loss(**options):
    made = CRD(num_examples=NUM_EXAMPLES, width=WIDTH, **options)
    student, teacher = tiny_model("llama", hidden_size=16, num_attention_heads=4), tiny_model("llama")
    made.setup(student, teacher, None)
    return made.double()


def batch(ids, num_examples=3):
    mask = torch.ones(num_examples, dtype=torch.bool)
    extras = {} if ids is None else {"example_id": torch.as_tensor(ids)}
    return Batch(inputs={}, extras=extras, labels=None, row_labels=None, row_mask=mask, token_mask=mask)


def signals(student, teacher):
    return Signal(features={"hidden.2": student}), Signal(features={"hidden.2": teacher})


# From crd/criterion.py and crd/memory.py of HobbitLong/RepDistiller: all others as negatives, two steps.
def test_two_steps_and_the_memory_after_them_are_those_of_the_official_code():
    generator = np.random.default_rng(0)

    def normal(*shape):
        return torch.tensor(generator.standard_normal(shape))

    crd = loss()
    crd.student_map, crd.teacher_map = torch.nn.Linear(5, WIDTH).double(), torch.nn.Linear(8, WIDTH).double()
    with torch.no_grad():
        for linear, width in ((crd.student_map, 5), (crd.teacher_map, 8)):
            linear.weight.copy_(normal(WIDTH, width))
            linear.bias.copy_(normal(WIDTH))
        crd.memory.student.copy_(normal(NUM_EXAMPLES, WIDTH) / 2)
        crd.memory.teacher.copy_(normal(NUM_EXAMPLES, WIDTH) / 2)
    for ids, expected in (([2, 5, 0], 10.802536829414958), ([5, 1, 6], 30.33445260739071)):
        student, teacher = normal(3, 5), normal(3, 8)
        value = crd(*signals(student[:, None], teacher[:, None]), batch(ids))
        assert value.item() / 3 == pytest.approx(expected, rel=1e-9)
        crd.on_step_end(STEP_INFO)
    assert crd.memory.normalizers.tolist() == pytest.approx([1254.8596, 2199.6678], rel=1e-6)
    assert crd.memory.student.sum().item() == pytest.approx(3.052226074393488, rel=1e-9)
    assert crd.memory.teacher.sum().item() == pytest.approx(-2.4267924398385503, rel=1e-9)


def test_the_gradient_agrees_with_finite_differences():
    memory = ContrastMemory(5, 3, num_negatives=4, temperature=0.5, momentum=0.5).double()
    memory.normalizers.fill_(4.0)
    ids, present = torch.tensor([1, 3]), torch.ones(2, dtype=torch.bool)
    vectors = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *both: memory(*both, ids, present), vectors)


def test_contrast_is_two_sided_cross_entropy_of_telling_data_from_noise():
    scores = torch.tensor([[2.0, 0.5, 3.0]], dtype=torch.float64)
    noise = 2 / 10
    h = (scores / (scores + noise)).squeeze().tolist()
    expected = -math.log(h[0]) - math.log(1 - h[1]) - math.log(1 - h[2])
    assert contrast(scores, 10).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_negatives", [2, 16384])
def test_negatives_are_other_examples(num_negatives):
    memory = ContrastMemory(4, 2, num_negatives=num_negatives, temperature=1.0, momentum=0.5)
    drawn = torch.cat([memory._draw(torch.arange(4)) for _ in range(50)], 1)
    for example, row in enumerate(drawn):
        assert set(row.tolist()) == {0, 1, 2, 3} - {example}


def test_evaluation_reads_no_numbers_and_moves_nothing():
    crd = loss().eval()
    before = {name: value.clone() for name, value in crd.state_dict().items()}
    student, teacher = torch.randn(3, 1, 16), torch.randn(3, 1, 32)
    values = [crd(*signals(student.double(), teacher.double()), batch(None)).item() for _ in range(2)]
    assert values[0] == values[1]
    crd.on_step_end(STEP_INFO)
    assert all(torch.equal(before[name], value) for name, value in crd.state_dict().items())


def test_a_batch_without_example_numbers_or_with_numbers_out_of_range_is_refused():
    crd = loss()
    both = signals(torch.randn(3, 1, 16).double(), torch.randn(3, 1, 32).double())
    with pytest.raises(ValueError, match="add_column"):
        crd(*both, batch(None))
    with pytest.raises(ValueError, match="numbers from 0 to 7; expected 0 to 6"):
        crd(*both, batch([0, 7, 1]))


@pytest.mark.parametrize(
    "options",
    [{"num_examples": 1}, {"num_negatives": 0}, {"contrast_temperature": 0.0}, {"momentum": 1.0}, {"layers": "top"}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CRD(**{"num_examples": 10, **options})
