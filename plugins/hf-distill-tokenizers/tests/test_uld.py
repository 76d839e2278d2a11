"""ULD's formula and its pairs against NumPy, for answers of different lengths and vocabularies of different sizes."""

from __future__ import annotations

import numpy as np
import torch
from hf_distill_tokenizers.uld import sorted_distance
from scipy.special import softmax
from scipy.stats import wasserstein_distance

from .kinds import TEXT, tokenizer_of
from .runs import batch_of, live_teacher, rows, trainer, value_of


def waves(phase, num_rows, width):
    """Logits that any program can make."""
    row, column = np.arange(num_rows)[:, None], np.arange(width)
    return 3 * np.sin(phase + 1.7 * row + 2.3 * column + 0.37 * row * column)


# Sorted, filled up with zeros, and summed, by the lines of the authors' code that do so.
GOLDEN = [0.4984519467050032, 0.32398090344700425, 0.2513219433591049, 0.3150659981834749]


def test_the_distance_is_that_of_the_authors_code():
    student, teacher = (torch.from_numpy(waves(*shape)) for shape in ((0.3, 4, 9), (1.1, 4, 12)))
    torch.testing.assert_close(sorted_distance(student, teacher).tolist(), GOLDEN)
    torch.testing.assert_close(sorted_distance(teacher, student).tolist(), GOLDEN)


def test_the_distance_of_equal_vocabularies_is_a_transport_of_sorted_values():
    """Of as many values on both sides, the sum of sorted gaps is n times the Wasserstein distance of the values."""
    one, other = waves(0.3, 1, 9), waves(1.1, 1, 9)
    expected = 9 * wasserstein_distance(softmax(one[0]), softmax(other[0]))
    found = sorted_distance(torch.from_numpy(one), torch.from_numpy(other))
    torch.testing.assert_close(found.item(), expected)


def test_the_k_th_prediction_of_an_answer_is_compared_with_the_k_th(tmp_path):
    """Prompts are left out, of the teacher's reading, too."""
    teacher = live_teacher()
    run = trainer(tmp_path, ["uld"], teacher=teacher, data=rows(TEXT[:4], prompts=4))
    batch = batch_of(run)
    columns = {name.removeprefix("teacher."): values for name, values in batch.extras.items()}
    total, number = 0.0, 0
    with torch.no_grad():
        ours = run.student(**batch.inputs).logits.numpy()
        theirs = teacher["model"](input_ids=columns["input_ids"]).logits.numpy()
    for row, mask in enumerate(batch.row_mask.numpy()):
        own = np.flatnonzero(mask)
        answer = tokenizer_of("byte_level").decode(batch.inputs["input_ids"][row, own[0] + 1 : own[-1] + 1])
        other = len(teacher["tokenizer"](answer.removeprefix(" "), add_special_tokens=False)["input_ids"]) + 1
        begin = int(columns["attention_mask"][row].sum()) - other - 1
        pairs = min(len(own), other)
        for k in range(pairs):
            q, p = (np.sort(softmax(logits))[::-1] for logits in (ours[row, own[k]], theirs[row, begin + k]))
            size = max(len(q), len(p))
            total += np.abs(np.pad(q, (0, size - len(q))) - np.pad(p, (0, size - len(p)))).sum()
        number += pairs
    value, count = value_of(run)
    assert count == number
    torch.testing.assert_close(value.item(), total, rtol=1e-4, atol=0)
