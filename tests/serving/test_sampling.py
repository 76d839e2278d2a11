from __future__ import annotations

import torch

from hf_distill.serving.sampling import SeededSampling


def test_samples_follow_the_softmax_of_the_logits():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -float("inf")])
    draws = 20_000
    picked = SeededSampling(range(draws), logits.device)(None, logits.repeat(draws, 1)).argmax(-1)
    shares = torch.bincount(picked, minlength=5) / draws
    expected = logits.softmax(-1)
    # Four standard deviations of a binomial share.
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt()).all()
    assert shares[4] == 0, "what was ruled out is not sampled"


def test_a_row_draws_the_same_whatever_stands_beside_it_and_leaves_the_global_generator_alone():
    logits = torch.randn(3, 50)
    state = torch.get_rng_state()
    together, alone = SeededSampling([7, 8, 9], logits.device), SeededSampling([8], logits.device)
    for _ in range(4):
        assert torch.equal(together(None, logits)[1], alone(None, logits[1:2])[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_does_not_round_the_noise():
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)
    assert SeededSampling([0], logits.device)(None, logits).unique().numel() > 990
