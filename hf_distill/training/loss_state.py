"""Parameters and buffers that losses own: part of the student while it trains, beside it when it is saved.

As a submodule of the student they are optimised, wrapped, sharded, checkpointed and resumed like everything else. They
never enter the student's own weight files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .specs import ActiveLoss

ATTRIBUTE = "distillation_losses"
FILE = "distillation_losses.safetensors"


def attach_auxiliary(student: nn.Module, losses: Sequence[ActiveLoss]) -> None:
    """Make the losses that own parameters or buffers a submodule of `student`, named `ATTRIBUTE`."""
    modules = {loss.label: loss.module for loss in losses if loss.module is not None and loss.module.state_dict()}
    if not modules:
        return
    student.add_module(ATTRIBUTE, nn.ModuleDict(modules))
    if hasattr(student, "_keys_to_ignore_on_save"):
        # save_pretrained drops these, whoever calls it.
        names = {name for name in student.state_dict() if name.startswith(f"{ATTRIBUTE}.")}
        kept = getattr(student, "_keys_to_ignore_on_save", None) or ()
        student._keys_to_ignore_on_save = {*kept, *names}  # type: ignore[assignment]


def auxiliary_state(student: nn.Module, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The losses' state, on the CPU; empty where there is none.

    Args:
        student: the unwrapped student.
        state_dict: the consolidated state of a sharded student, in which buffers may be missing; empty where ZeRO-3
            shards are not gathered at all, and DeepSpeed's own files have everything.
    """
    module = getattr(student, ATTRIBUTE, None)
    if module is None or state_dict == {}:
        return {}
    prefix = f"{ATTRIBUTE}."
    state = module.state_dict()
    state |= {k.removeprefix(prefix): v for k, v in (state_dict or {}).items() if k.startswith(prefix)}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def save_auxiliary(state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write the losses' state beside the student's weights; nothing where there is none."""
    if state:
        save_file(dict(state), Path(folder) / FILE)


def load_auxiliary(student: nn.Module, folder: str | Path, *, buffers_only: bool) -> None:
    """Restore what `save_auxiliary` wrote.

    Args:
        student: the unwrapped student.
        folder: the checkpoint.
        buffers_only: leave the parameters to DeepSpeed, whose engine restores its own shards.

    Raises:
        ValueError: the checkpoint lacks the state of the losses of this run.
    """
    module = getattr(student, ATTRIBUTE, None)
    if module is None:
        return
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(
            f"The checkpoint {folder} has no {FILE}, but the losses {', '.join(module)} have state to resume. "
            "Resume with the losses that the checkpoint was made with."
        )
    saved = load_file(path)
    expected = set(module.state_dict())
    if set(saved) != expected:
        odd = sorted(set(saved) ^ expected)
        raise ValueError(f"{path} does not fit the losses of this run; these entries differ: {', '.join(odd)}.")
    if buffers_only:
        for name, buffer in module.named_buffers():
            buffer.copy_(saved[name])
    else:
        module.load_state_dict(saved)
