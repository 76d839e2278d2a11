"""The kit's two-process part: it passes what is right and catches what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_distill.testing import conformance_on_two_processes

test_forward_kl = conformance_on_two_processes("forward_kl")
test_projected_features = conformance_on_two_processes("hidden_mse", student={"family": "llama", "hidden_size": 16})


@pytest.mark.distributed
def test_a_statistic_of_one_process_is_caught():
    plugin = str(Path(__file__).with_name("own_mean.py"))
    with pytest.raises(AssertionError, match=r"lacks 'process_invariance'.*buffer own_mean\.mean"):
        conformance_on_two_processes("own_mean", plugins=[plugin])()


def test_a_loss_without_a_registered_name_is_refused_on_two_processes():
    with pytest.raises(AssertionError, match="give its registered name"):
        conformance_on_two_processes(lambda student_logits, teacher_logits: student_logits.sum(-1))()
