"""The dynamic sampler: a stream of batches whose examples a selector chooses, exactly on the optimizer step.

`Trainer` takes a whole accumulation window at once, accelerate reads one batch ahead and workers further, so a sampler
that asked the selector for one index after the other would run an unknown number of steps ahead of its updates. Here an
ordinary prepared loader runs over the indices of *one interval* at a time, and ends with it: nothing can read across
the boundary. The next interval is drawn when its first batch is asked for, after the selector's update.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from .selectors import Selector


class IntervalSampler(Sampler[int]):
    """Yields the indices drawn for one interval; its length is that of an epoch, which loaders ask for."""

    def __init__(self, num_examples: int) -> None:
        self.num_examples = num_examples
        self.indices: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return self.num_examples


class IntervalLoader:
    """Feeds `Trainer` with what a selector draws, interval by interval.

    An interval is the optimizer steps from one multiple of ``selector.interval`` to the next. An epoch may end within
    one; the next epoch uses the rest. Draws happen here, on all processes alike, and not in the sampler, which runs on
    the main process alone where batches are dispatched.

    Args:
        make_loader: builds the prepared loader (by ``accelerator.prepare``) over the training set from the sampler that
            it is given; called once.
        selector: draws the examples; its `update` is called by the trainer after the last step of an interval,
            before the next batch is asked for.
        num_examples: examples of the training set, the length of an epoch.
        batch_size: examples of one micro-batch over all processes.
        accumulation_steps: micro-batches of one optimizer step.
        drop_last: whether an epoch drops the last, smaller batch; otherwise that batch is filled up.
        seed: decides the seeds of the loader's workers.

    Attributes:
        dataloader: what ``Trainer.get_train_dataloader`` returns. Its length is the constant number of batches of an
            epoch, and ``accelerate.skip_first_batches`` works on it: what it skips on resuming are placeholders.

    Raises:
        ValueError: the training set has no full batch.
    """

    def __init__(
        self,
        make_loader: Callable[[Sampler[int]], DataLoader[Any]],
        selector: Selector,
        *,
        num_examples: int,
        batch_size: int,
        accumulation_steps: int,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        self.selector = selector
        self.batch_size = batch_size
        self.accumulation_steps = accumulation_steps
        self.batches_per_epoch = num_examples // batch_size if drop_last else -(-num_examples // batch_size)
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"The training set has {num_examples} examples, not enough for one batch of {batch_size} over all "
                "processes. Use smaller batches, or do not drop the last one."
            )
        self._sampler = IntervalSampler(num_examples)
        self._loader = make_loader(self._sampler)
        # A loader of PyTorch seeds its workers from the global generator each time it is iterated, which would make a
        # run depend on where it was resumed. Where batches are dispatched, accelerate drops a generator given earlier.
        self._generator = torch.Generator()
        getattr(self._loader, "base_dataloader", self._loader).generator = self._generator
        self._seed = seed
        self._batches: Iterator[Any] = iter(())
        self._num_left = 0  # batches that the loader has still to give
        self._origin = 0  # step at which the epochs' accumulation windows are counted from
        self._num_placeholders = 0
        self._start = self._end = 0  # steps: where the loader's iteration starts, and the interval's end
        self._before: dict[str, Any] = {}  # the selector's state before the draws of this interval
        self._draws: list[int] = []  # sizes of these draws
        self._consumed = 0  # examples of them used before `_start`
        self._waiting: list[int] = []  # drawn, and not yet given to the loader
        self.dataloader: DataLoader[Any] = DataLoader(
            _Stream(self), batch_size=None, collate_fn=_as_it_is, generator=torch.Generator()
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        """Everything that decides the batches after optimizer step `step`, the one just finished; JSON-serialisable.

        Holds the selector's state before the current interval was drawn, and how much of it was trained on: batches
        that were only read ahead count as not used.
        """
        if step == self._end:
            return {"step": step, "selector": self.selector.state_dict(), "draws": [], "consumed": 0}
        consumed = self._consumed + self._num_between(self._start, step)
        return {"step": step, "selector": self._before, "draws": self._draws, "consumed": consumed}

    def load_state_dict(self, state: Mapping[str, Any], *, skip_batches: bool = True) -> None:
        """Continue after the step at which `state` was made.

        Args:
            state: what `state_dict` gave.
            skip_batches: whether the trainer skips the batches that the current epoch has used (it does, unless
                `ignore_data_skip` is set); they are replaced by placeholders. Otherwise a new epoch begins here.
        """
        self._start = self._end = step = state["step"]
        steps_of_epoch = step % self._steps_per_epoch
        self._num_placeholders = steps_of_epoch * self.accumulation_steps if skip_batches else 0
        self._origin = 0 if skip_batches else step
        self.selector.load_state_dict(state["selector"])
        if state["draws"]:
            self._before, self._draws, self._consumed = state["selector"], [], state["consumed"]
            self._waiting = [index for size in state["draws"] for index in self._draw(size)][self._consumed :]
            self._fill()

    def close(self) -> None:
        """End training: lets go of the prepared loader and of what it has read ahead.

        Workers that are left to Python's collector of reference cycles may take ten seconds to end.
        """
        self._batches = iter(())
        vars(self).pop("_loader", None)

    @property
    def _steps_per_epoch(self) -> int:
        return -(-self.batches_per_epoch // self.accumulation_steps)

    def _num_between(self, start: int, end: int) -> int:
        """Examples used by the optimizer steps from `start` to `end`; the last window of an epoch may be smaller."""

        def batches(step: int) -> int:
            epochs, steps = divmod(step - self._origin, self._steps_per_epoch)
            return epochs * self.batches_per_epoch + steps * self.accumulation_steps

        return (batches(end) - batches(start)) * self.batch_size

    def _draw(self, num_examples: int) -> list[int]:
        self._draws.append(num_examples)
        indices = self.selector.draw(num_examples)
        if len(indices) != num_examples:
            name = type(self.selector).__name__
            raise ValueError(f"The selector {name} drew {len(indices)} examples; expected {num_examples}.")
        return indices

    def _fill(self) -> None:
        """Have as many examples waiting as the steps from `_start` to the end of the interval use."""
        self._end = (self._start // self.selector.interval + 1) * self.selector.interval
        needed = self._num_between(self._start, self._end)
        # After resuming there is a rest of the interval, which fits unless batch size or accumulation have changed.
        if needed > len(self._waiting):
            self._waiting += self._draw(needed - len(self._waiting))
        del self._waiting[needed:]

    def _next_batch(self) -> Any:
        batch = next(self._batches, _END)
        if batch is not _END:
            self._num_left -= 1
            return batch
        assert self._num_left == 0, "batch_size is the number of examples in one batch of all processes together"
        if not self._waiting:
            self._start = self._end
            self._before, self._draws, self._consumed = copy.deepcopy(self.selector.state_dict()), [], 0
            self._fill()
        self._num_left = len(self._waiting) // self.batch_size
        self._sampler.indices, self._waiting = self._waiting, []
        self._generator.manual_seed(self._seed + self._start)
        self._batches = iter(self._loader)
        return self._next_batch()

    def _epoch(self) -> Iterator[Any]:
        skipped, self._num_placeholders = self._num_placeholders, 0
        for _ in range(skipped):
            yield None
        for _ in range(self.batches_per_epoch - skipped):
            yield self._next_batch()


class _Stream(IterableDataset[Any]):
    """The batches of one epoch."""

    def __init__(self, owner: IntervalLoader) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[Any]:
        return self._owner._epoch()

    def __len__(self) -> int:
        return self._owner.batches_per_epoch


def _as_it_is(batch: Any) -> Any:
    return batch


_END = object()
