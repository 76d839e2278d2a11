"""Any three losses of the core and its packages train together from one YAML file, under ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_distill import Plugins
from hf_distill.testing import tiny_model, tiny_tokenizer

from .combination import FAMILIES, NUM_EXAMPLES, student
from .launching import launch

pytestmark = pytest.mark.distributed

SCRIPT = __file__.replace("test_combinations", "combination")
PLUGINS = {"language": ["features", "lm", "tokenizers"], "classifier": ["classification"]}
LEFT_OUT = {
    "ofa_kd",  # refuses a causal language model
    "deit_lt",  # is for students with a distillation token
    "mdcs",  # is for students with several experts
}
MOVING = {"crd", "taid"}  # what these compare with changes from step to step, so that they may rise
# What a loss needs beside a teacher; the columns are in the data.
OPTIONS = {
    "aligndistil": {"teacher": ["a", "b"]},
    "crd": {"num_examples": NUM_EXAMPLES, "num_negatives": 4},
    "ferkd": {"lower": 0.2, "middle": 0.4},
    "hybrid_features": {"teacher": "b"},
    "minilm_relations": {"num_relation_heads": 4},  # by default more than so narrow a model has
}


def combinations(task):
    """All losses for a task in a random order, three at a time, so that each is in one combination."""
    of_language_models = {one.name for one in Plugins(()).losses} if task == "classifier" else set()
    names = [one.name for one in Plugins(PLUGINS[task]).losses if one.name not in LEFT_OUT | of_language_models]
    random.Random(5).shuffle(names)
    names += names[: -len(names) % 3]
    return [tuple(names[start : start + 3]) for start in range(0, len(names), 3)]


CASES = [(task, losses) for task in PLUGINS for losses in combinations(task)]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two teachers of the same tokens for each task, in folders, as a YAML file names them."""
    folder = tmp_path_factory.mktemp("teachers")
    specs = {task: [] for task in PLUGINS}
    for task, family in FAMILIES.items():
        for name, layers in (("a", 4), ("b", 2)):
            place = folder / task / name
            tiny_model(family, num_hidden_layers=layers, seed=layers).save_pretrained(place)
            tiny_tokenizer().save_pretrained(place)
            specs[task].append({"name": name, "model": str(place)})
    return specs


@pytest.fixture(scope="module")
def train(teachers, tmp_path_factory):
    """Trains all combinations on two processes, and gives the logs and the weights of each."""

    def train_all(backend):
        folder = tmp_path_factory.mktemp(backend)
        for task, losses in CASES:
            config = {
                "output_dir": str(folder / "out"),
                "plugins": PLUGINS[task],
                "teacher": teachers[task],
                "losses": [{"name": name, "teacher": "a", **OPTIONS.get(name, {})} for name in losses],
                **{"max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 0.05},
                **{"optim": "sgd", "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none"},
                **{"disable_tqdm": True, "use_cpu": True},
            }
            (folder / task).mkdir(exist_ok=True)
            (folder / task / f"{'+'.join(losses)}.yaml").write_text(yaml.safe_dump(config))
        launch(backend, 2, SCRIPT, str(folder))
        return {
            (task, losses): (
                json.loads((folder / task / f"{'+'.join(losses)}.json").read_text()),
                load_file(folder / task / "+".join(losses) / "model.safetensors"),
            )
            for task, losses in CASES
        }

    return train_all


def test_three_losses_train_together_and_alike_under_zero_2_and_3(train):
    runs = {backend: train(backend) for backend in ("zero2", "zero3")}
    for task, losses in CASES:
        logs, weights = runs["zero2"][task, losses]
        other_logs, other_weights = runs["zero3"][task, losses]
        start = student(task).state_dict()
        for entry, other in zip(logs, other_logs, strict=True):
            for name in losses:
                values = [v for k, v in entry.items() if k == f"{name}_loss" or k.startswith(f"{name}/")]
                assert values, (losses, name, list(entry))
                assert all(map(math.isfinite, values)), (losses, name, entry)
            assert 1e-4 < entry["grad_norm"] < math.inf, losses
            assert other["loss"] == pytest.approx(entry["loss"], rel=1e-4), losses
            assert other["grad_norm"] == pytest.approx(entry["grad_norm"], rel=1e-3), losses
        assert logs[-1]["loss"] < logs[0]["loss"] or MOVING.intersection(losses), (losses, logs)
        change = torch.cat([(weights[name] - start[name]).flatten() for name in sorted(weights)])
        difference = torch.cat([(weights[name] - other_weights[name]).flatten() for name in sorted(weights)])
        assert change.norm() > 1e-3, losses
        assert difference.norm() < 1e-3 * change.norm(), losses
