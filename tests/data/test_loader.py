"""The interval loader under the real `Trainer`: what is drawn takes effect on the step, read ahead or not.

Runs of two processes start this file as a script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_distill.data.loader import IntervalLoader
from hf_distill.data.mixture import MixtureSelector
from hf_distill.data.selectors import Selector

NUM_EXAMPLES = 23
DOMAINS = ["even" if index % 3 else "third" for index in range(NUM_EXAMPLES)]
INTERVAL = 3
STEPS = 14


class Alternating(MixtureSelector):
    """Gives everything to one domain in one interval and to the other in the next."""

    def start(self, probe):
        self.weights = [1, 0]

    def update(self, step, probe):
        self.weights = [0, 1] if (step // self.interval) % 2 else [1, 0]


def wrong_domain(step, indices):
    """Those of the examples trained on in optimizer step `step` (from 0) that its interval does not allow."""
    return [index for index in indices if DOMAINS[index] != ("even", "third")[(step // INTERVAL) % 2]]


class Recorder(torch.nn.Module):
    """A model that learns nothing and remembers what it was given, a list of micro-batches a step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.micro_batches = []
        self.steps = []

    def forward(self, indices):
        self.micro_batches.append(indices.tolist())
        return {"loss": (self.weight * indices).mean()}


class IntervalTrainer(Trainer):
    """`Trainer` with the loader, the selector's updates and its state in the checkpoint; no more than that."""

    def get_train_dataloader(self):
        selector = Alternating(interval=INTERVAL)
        selector.setup({"domain": DOMAINS}, num_examples=NUM_EXAMPLES, seed=self.args.seed)
        selector.start(None)
        world = 1 if self.args.accelerator_config.split_batches else self.args.world_size
        self.intervals = IntervalLoader(
            lambda sampler: self._get_dataloader(
                self.train_dataset,
                "Training",
                self.args.train_batch_size,
                sampler_fn=lambda _: sampler,
                is_training=True,
            ),
            selector,
            num_examples=NUM_EXAMPLES,
            batch_size=self.args.train_batch_size * world,
            accumulation_steps=self.args.gradient_accumulation_steps,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.intervals.dataloader

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        state = json.dumps(self.intervals.state_dict(self.state.global_step))
        Path(output_dir, "intervals.json").write_text(state)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if resume_from_checkpoint is not None:
            state = json.loads(Path(resume_from_checkpoint, "intervals.json").read_text())
            self.intervals.load_state_dict(state, skip_batches=not self.args.ignore_data_skip)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)


class Update(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        trainer, model = self.trainer, self.trainer.model
        model.steps.append(model.micro_batches)
        model.micro_batches = []
        if state.global_step % INTERVAL == 0:
            trainer.intervals.selector.update(state.global_step, None)


def train(folder, *, resume_from=None, max_steps=STEPS, **arguments):
    """The examples of each micro-batch of each optimizer step that is run, on this process."""
    arguments = {"per_device_train_batch_size": 2, "logging_strategy": "no", "save_strategy": "no"} | arguments
    args = TrainingArguments(
        str(folder), max_steps=max_steps, use_cpu=True, report_to="none", disable_tqdm=True, **arguments
    )
    dataset = [{"indices": torch.tensor(index)} for index in range(NUM_EXAMPLES)]
    update = Update()
    update.trainer = IntervalTrainer(Recorder(), args, train_dataset=dataset, callbacks=[update])
    update.trainer.train(resume_from and str(Path(folder, f"checkpoint-{resume_from}")))
    # What a next training does first; it ends persistent workers, too.
    update.trainer.intervals.close()
    update.trainer.accelerator.free_memory()
    return update.trainer.model.steps


def flat(step):
    return [index for micro_batch in step for index in micro_batch]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gradient_accumulation_steps": 2},
        # 12 batches make an epoch of 5, 5 and 2.
        {"gradient_accumulation_steps": 5},
        {"gradient_accumulation_steps": 4, "dataloader_drop_last": True},
        {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4},
        {"accelerator_config": {"dispatch_batches": True}, "gradient_accumulation_steps": 2},
        {"accelerator_config": {"split_batches": True}},
    ],
    ids=str,
)
def test_new_weights_take_effect_at_their_step_whatever_reads_ahead(tmp_path, arguments):
    steps = train(tmp_path, **arguments)
    assert len(steps) == STEPS
    assert all(not wrong_domain(step, flat(micro_batches)) for step, micro_batches in enumerate(steps))
    accumulation = arguments.get("gradient_accumulation_steps", 1)
    per_epoch = NUM_EXAMPLES // 2 + (not arguments.get("dataloader_drop_last"))
    windows = [min(accumulation, per_epoch - start) for start in range(0, per_epoch, accumulation)]
    assert [len(step) for step in steps] == (windows * STEPS)[:STEPS]
    # Nothing is lost at a boundary or at the end of an epoch: the draws are those of a selector that stands alone.
    selector = Alternating(interval=INTERVAL)
    selector.setup({"domain": DOMAINS}, num_examples=NUM_EXAMPLES, seed=42)
    expected = []
    for step, micro_batches in enumerate(steps):
        selector.update(step, None) if step % INTERVAL == 0 else None
        expected.append(selector.draw(2 * len(micro_batches)))
    assert [flat(step) for step in steps] == expected


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_a_resumed_run_trains_on_what_the_uninterrupted_one_did(tmp_path, accumulation):
    arguments = {"gradient_accumulation_steps": accumulation}
    whole = train(tmp_path, save_strategy="steps", save_steps=1, **arguments)
    for step in (1, 3, 4, 6, 8):
        assert train(tmp_path, resume_from=step, **arguments) == whole[step:]


def test_a_run_resumed_twice_within_one_interval_trains_on_what_the_uninterrupted_one_did(tmp_path):
    arguments = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1}
    whole = train(tmp_path, **arguments)
    assert train(tmp_path, resume_from=4, max_steps=5, **arguments) == whole[4:5]
    assert train(tmp_path, resume_from=5, **arguments) == whole[5:]


@pytest.mark.parametrize("accumulation", [2, 5])
def test_where_the_data_are_not_skipped_no_step_is_lost_and_boundaries_stay(tmp_path, accumulation):
    arguments = {"gradient_accumulation_steps": accumulation}
    whole = train(tmp_path, save_strategy="steps", save_steps=1, **arguments)
    resumed = train(tmp_path, resume_from=4, ignore_data_skip=True, max_steps=12, **arguments)
    assert len(resumed) == 8
    assert all(not wrong_domain(4 + step, flat(micro_batches)) for step, micro_batches in enumerate(resumed))
    # The rest of the interval that step 4 belongs to goes on; how much more is drawn depends on where epochs end.
    rest = flat(whole[4] + whole[5])
    assert flat(resumed[0] + resumed[1])[: len(rest)] == rest


def test_a_resume_with_larger_batches_goes_on_with_the_next_example(tmp_path):
    whole = train(tmp_path, save_strategy="steps", save_steps=1, per_device_train_batch_size=1)
    resumed = train(tmp_path, resume_from=4, per_device_train_batch_size=2)
    drawn = [index for step in whole for index in flat(step)]
    # Two examples of the interval were left; the two more that larger batches need were drawn for it.
    assert flat(resumed[0]) == drawn[4:6]
    assert all(not wrong_domain(4 + step, flat(micro_batches)) for step, micro_batches in enumerate(resumed))


def interval_loader(selector=None, *, batch_size=2, drop_last=False):
    selector = selector or Alternating(interval=2)
    selector.setup({"domain": DOMAINS}, num_examples=NUM_EXAMPLES, seed=0)
    accelerator = Accelerator(cpu=True)
    return IntervalLoader(
        lambda sampler: accelerator.prepare(DataLoader(range(NUM_EXAMPLES), batch_size=2, sampler=sampler)),
        selector,
        num_examples=NUM_EXAMPLES,
        batch_size=batch_size,
        accumulation_steps=1,
        drop_last=drop_last,
    )


def test_iterating_leaves_the_global_generator_alone():
    # Otherwise dropout would differ between a run and the same run resumed at the boundary of an interval.
    state = torch.get_rng_state()
    for _ in range(2):
        for _ in interval_loader().dataloader:
            pass
    assert torch.equal(torch.get_rng_state(), state)


def test_dispatched_batches_leave_the_global_generator_alone(tmp_path):
    class Dispatching(IntervalTrainer):
        def get_train_dataloader(self):
            loader = super().get_train_dataloader()
            state = torch.get_rng_state()
            list(loader)
            assert torch.equal(torch.get_rng_state(), state)
            return loader

    args = TrainingArguments(
        str(tmp_path), max_steps=0, use_cpu=True, report_to="none", accelerator_config={"dispatch_batches": True}
    )
    Dispatching(Recorder(), args, train_dataset=[{"indices": torch.tensor(0)}] * NUM_EXAMPLES).get_train_dataloader()


def test_a_state_taken_before_the_first_step_after_a_resume_is_the_one_resumed_from():
    loader = interval_loader()
    batches = iter(loader.dataloader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict(3)
    again = interval_loader()
    again.load_state_dict(json.loads(json.dumps(state)))
    assert again.state_dict(3) == state


def test_a_selector_that_hands_out_its_live_state_resumes_all_the_same():
    class Consecutive(Selector):
        interval = 4

        def setup(self, columns, *, num_examples, seed):
            self.state = {"next": 0}

        def draw(self, num_examples):
            self.state["next"] += num_examples
            return [index % NUM_EXAMPLES for index in range(self.state["next"] - num_examples, self.state["next"])]

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.state = state

    loader = interval_loader(Consecutive())
    batches = iter(loader.dataloader)
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    again = interval_loader(Consecutive())
    again.load_state_dict(json.loads(json.dumps(loader.state_dict(2))))
    assert [batch.tolist() for batch in list(again.dataloader)[2:4]] == [[4, 5], [6, 7]]


def test_a_selector_that_draws_too_few_is_an_error_that_names_it():
    class Lazy(Alternating):
        def draw(self, num_examples):
            return super().draw(num_examples)[:-1]

    with pytest.raises(ValueError, match="Lazy drew 3 examples; expected 4"):
        list(interval_loader(Lazy(interval=2)).dataloader)


def test_a_training_set_without_a_full_batch_is_an_error_where_short_batches_are_dropped():
    with pytest.raises(ValueError, match="has 23 examples, not enough for one batch of 24"):
        interval_loader(batch_size=24, drop_last=True)
    assert len(interval_loader(batch_size=24).dataloader) == 1


def test_a_wrong_batch_size_is_found_out_before_boundaries_drift():
    with pytest.raises(AssertionError, match="all processes together"):
        list(interval_loader(batch_size=4).dataloader)


# ---- Two processes ----

CASES = {
    "plain": {"gradient_accumulation_steps": 5},
    "workers": {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
    "dispatch": {"accelerator_config": {"dispatch_batches": True}, "gradient_accumulation_steps": 2},
    "split": {"accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 4},
    "split_dispatch": {
        "accelerator_config": {"split_batches": True, "dispatch_batches": True},
        "per_device_train_batch_size": 4,
    },
    "drop_last": {"dataloader_drop_last": True, "gradient_accumulation_steps": 4},
}


@pytest.mark.distributed
def test_two_processes_share_one_draw_between_them(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for case, arguments in CASES.items():
        alone = {
            name: value
            for name, value in arguments.items()
            if name not in ("accelerator_config", "dataloader_num_workers")
        }
        # One process with the batch of both draws the same, in the same order.
        expected = train(tmp_path / case, **(alone | {"per_device_train_batch_size": 4}))
        for run in ("whole", "resumed"):
            steps = expected if run == "whole" else expected[4:]
            shares = [ranks[rank][f"{case} {run}"] for rank in range(2)]
            assert len(steps) == len(shares[0]) == len(shares[1])
            for both, first, second in zip(steps, *shares, strict=True):
                assert all(len(batch) == 2 for batch in first + second)
                assert [a + b for a, b in zip(first, second, strict=True)] == both


def main(folder):
    seen = {}
    for case, arguments in CASES.items():
        seen[f"{case} whole"] = train(folder / case, save_strategy="steps", save_steps=4, **arguments)
        seen[f"{case} resumed"] = train(folder / case, resume_from=4, **arguments)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
