"""Builders under ZeRO-3: students are made whole, also from a teacher of which no process has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_distill.testing import tiny_model

from .launching import launch

SCRIPT = Path(__file__).with_name("zero3_builders.py")


@pytest.mark.distributed
def test_a_student_built_under_zero3_is_whole_and_equals_one_built_without(tmp_path):
    tiny_model("llama", num_hidden_layers=4).save_pretrained(tmp_path)
    launch("ddp", 2, SCRIPT, str(tmp_path))
