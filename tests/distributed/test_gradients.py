"""The first test of the project: the gradient of a step does not depend on how the step is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.testing import tiny_model

from .launching import launch

pytestmark = pytest.mark.distributed

LOSSES = ("kl", "mixture", "separate")
SCRIPT = Path(__file__).with_name("gradient_table.py")


def gradient(folder):
    """The change of the student's weights, and where projections are trained these, as one vector."""
    start = tiny_model("llama", hidden_size=16, tie_word_embeddings=True).state_dict()
    after = load_file(folder / "model.safetensors")
    after.pop("lm_head.weight", None)  # tied; saved once more under DeepSpeed
    changes = [after[name].double() - start[name].double() for name in sorted(after)]
    projections = folder / "distillation_losses.safetensors"
    if projections.is_file():
        changes += [value.double() for _, value in sorted(load_file(projections).items())]
    return torch.cat([change.flatten() for change in changes])


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The gradient of all eight examples in one batch of one process, by losses."""
    folder = tmp_path_factory.mktemp("reference")
    launch("single", 1, SCRIPT, "--cuts", "8x1", "--losses", *LOSSES, "--output", str(folder))
    return {losses: gradient(folder / f"{losses}-8x1") for losses in LOSSES}


@pytest.mark.parametrize(
    ("backend", "processes"),
    [
        ("single", 1),
        *((backend, processes) for backend in ("zero1", "zero2", "zero3") for processes in (1, 2)),
        ("ddp", 2),
    ],
)
def test_gradient_does_not_depend_on_how_the_step_is_cut(references, tmp_path, backend, processes):
    cuts = ["4x1", "2x2", "1x4"] if processes == 2 else ["4x2", "2x4", "1x8"]
    # DeepSpeed divides gradients as they come and refuses to keep one apart.
    names = LOSSES if backend in ("single", "ddp") else LOSSES[:2]
    launch(backend, processes, SCRIPT, "--cuts", *cuts, "--losses", *names, "--output", str(tmp_path))
    for losses in names:
        expected = references[losses]
        assert expected.norm() > 1e-3
        for cut in cuts:
            found = gradient(tmp_path / f"{losses}-{cut}")
            assert (found - expected).norm() / expected.norm() < 1e-5, (losses, cut)
