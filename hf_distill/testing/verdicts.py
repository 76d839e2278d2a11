"""What the conformance kit's checks fail with; pytest rewrites no asserts outside of test files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Fail with `message` unless `condition` holds.

    Raises:
        AssertionError: it does not hold.
    """
    if not condition:
        raise AssertionError(message)


def require_near(found: Tensor, expected: Tensor, tolerance: float, what: str, *, absolute: float = 1e-12) -> None:
    """Fail unless two tensors are equal up to `tolerance`, relative to the size of the expected one as a whole.

    Args:
        found: of any floating type and shape.
        expected: of the same shape.
        tolerance: share of the norm of `expected` that the norm of the difference may have.
        what: says in the message what is compared.
        absolute: what the norm of the difference may be beside that.

    Raises:
        AssertionError: they are not; a value that is not finite is equal to nothing.
    """
    difference = (found.double() - expected.double()).norm().item()
    size = expected.double().norm().item()
    require(
        difference <= tolerance * size + absolute,
        f"{what}: off by {difference:.3g}, where {size:.3g} was expected and a share of {tolerance:g} is allowed.",
    )


def require_finite(what: str, *tensors: Tensor) -> None:
    """Fail if a value or a gradient is infinite or not a number.

    Raises:
        AssertionError: one is.
    """
    for tensor in tensors:
        require(bool(tensor.isfinite().all()), f"{what}: a value or a gradient is not finite.")


def gradients_of(total: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of `total`, zeros where it does not depend on a leaf.

    Raises:
        AssertionError: it depends on nothing.
    """
    require(total.requires_grad, "the value is not connected to what the student says.")
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def require_named_error(function: Callable[[], object], source: str) -> None:
    """Fail unless `function` raises and the message or a note names the component's `source`.

    Raises:
        AssertionError: it does not raise, or does not say whose the error is.
    """
    try:
        function()
    except Exception as error:
        text = " ".join([str(error), *getattr(error, "__notes__", [])])
        require(source in text, f"the error {text!r} does not name {source}.")
    else:
        raise AssertionError("no error where there must be one.")
