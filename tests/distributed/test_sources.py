"""One loss, whatever the source: a resident, a sharded and a cached teacher on two processes under ZeRO-3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_distill.teachers.cache import BOUND, CacheStore
from hf_distill.testing import tiny_model

from .launching import launch

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("teacher_sources.py")


def test_sources_give_different_gradients(tmp_path):
    launch("zero3", 2, SCRIPT, "--output", str(tmp_path))
    start = tiny_model("llama", hidden_size=16).state_dict()

    def gradient(name):
        after = load_file(tmp_path / name / "model.safetensors")
        return torch.cat([(after[key].double() - start[key].double()).flatten() for key in sorted(after)])

    resident = gradient("resident")
    assert resident.norm() > 1e-3

    def distance(name):
        return ((gradient(name) - resident).norm() / resident.norm()).item()

    assert distance("sharded") < 1e-5
    # Each probability is off by a factor of e^b at most, and the gradient of the logits is q - p.
    assert 0 < distance("filling") < np.expm1(2 * BOUND)
    assert distance("cached") == distance("filling"), "what is read is not what was used while it was filled"
    assert len(CacheStore(tmp_path / "cache")) == 8
    assert distance("on_policy") > 0.1  # other text, so another gradient
