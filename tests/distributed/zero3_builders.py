"""Students that are built after ZeRO-3 was switched on, from a folder and from a teacher that it has cut up.

accelerate launch ... zero3_builders.py FOLDER
"""

from __future__ import annotations

import sys

import deepspeed
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from hf_distill import build_student
from hf_distill.testing import tiny_model
from hf_distill.training.distributed import end_processes_in_order

CONFIG = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "train_micro_batch_size_per_gpu": 1,
}


def main(folder: str) -> None:
    expected = build_student(tiny_model("llama", num_hidden_layers=4), layers=2).model.state_dict()
    deepspeed.init_distributed("gloo")
    end_processes_in_order()
    kept_alive = HfDeepSpeedConfig(CONFIG)
    assert is_deepspeed_zero3_enabled()
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    assert all(parameter.numel() == 0 for parameter in teacher.parameters()), "the teacher is cut up"
    for source in (folder, teacher):
        student = build_student(source, layers=2).model
        assert not any(hasattr(parameter, "ds_id") for parameter in student.parameters())
        assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())
    with pytest.raises(ValueError, match="ZeRO-3 has cut LlamaForCausalLM over the processes"):
        build_student(teacher, lambda whole: None)
    assert is_deepspeed_zero3_enabled(), "for the trainer that comes next"
    del kept_alive
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
