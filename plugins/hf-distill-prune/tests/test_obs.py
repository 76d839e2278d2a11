"""The second-order update against least squares in NumPy, and against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hf_distill_prune.obs import damped, refit, removal_order, remove_structure, structure_scores


def problem(outputs=3, inputs=6, rows=40, seed=0):
    """W, X and H; the inputs hang together, or an update would have nothing to do."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(rows, inputs)) @ generator.normal(size=(inputs, inputs))
    weight = generator.normal(size=(outputs, inputs))
    return weight, mixed, torch.tensor(mixed.T @ mixed)


def least_squares(weight, inputs, kept):
    """The weight on the columns `kept` whose output is nearest, by NumPy, and its squared error."""
    found = np.zeros_like(weight)
    wanted = inputs @ weight.T
    found[:, kept] = np.linalg.lstsq(inputs[:, kept], wanted, rcond=None)[0].T
    return found, float(((inputs @ found.T - wanted) ** 2).sum())


@pytest.mark.parametrize(("width", "structure"), [(1, 0), (1, 4), (2, 1), (3, 0)])
def test_the_update_is_the_least_squares_solution_on_what_is_left(width, structure):
    weight, inputs, moment = problem()
    columns = slice(structure * width, (structure + 1) * width)
    updated, inverse = remove_structure(torch.tensor(weight), torch.linalg.inv(moment), columns)
    kept = [column for column in range(6) if not columns.start <= column < columns.stop]
    wanted, error = least_squares(weight, inputs, kept)
    np.testing.assert_allclose(updated.numpy(), wanted, rtol=1e-8, atol=1e-9)
    score = structure_scores(torch.tensor(weight), torch.linalg.inv(moment), width)[structure]
    np.testing.assert_allclose(float(score), error, rtol=1e-8)
    # What is left of the inverse is the inverse of what is left.
    np.testing.assert_allclose(inverse.numpy()[np.ix_(kept, kept)], np.linalg.inv(moment.numpy()[np.ix_(kept, kept)]))


@pytest.mark.parametrize("width", [1, 2])
def test_errors_along_the_order_are_those_of_the_weights_that_it_leads_to(width):
    weight, inputs, moment = problem()
    removal = removal_order(torch.tensor(weight), moment, width)
    for count in range(6 // width + 1):
        kept = [width * structure + one for structure in removal.kept(count) for one in range(width)]
        wanted, error = least_squares(weight, inputs, kept)
        np.testing.assert_allclose(removal.errors[len(removal.order) - count], error, rtol=1e-6, atol=1e-6)
        found = refit(torch.tensor(weight), moment, torch.tensor(kept, dtype=torch.long))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-7, atol=1e-8)
    assert removal.relative_error(0) == pytest.approx(1.0)
    assert removal.relative_error(6 // width) == 0.0


def test_each_step_takes_the_cheapest_structure():
    weight, inputs, moment = problem(seed=3)
    removal = removal_order(torch.tensor(weight), moment, 2)
    left = [0, 1, 2]
    for chosen in removal.order[:2]:
        columns = {s: [c for other in left if other != s for c in (2 * other, 2 * other + 1)] for s in left}
        assert chosen == min(left, key=lambda s: least_squares(weight, inputs, columns[s])[1])
        left.remove(chosen)


def test_smaller_configurations_have_only_structures_of_bigger_ones():
    weight, _, moment = problem(inputs=8)
    removal = removal_order(torch.tensor(weight), moment)
    for smaller, bigger in itertools.pairwise(range(9)):
        assert set(removal.kept(smaller)) < set(removal.kept(bigger))
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(removal.errors))


def test_of_two_columns_that_say_the_same_one_goes_first_and_the_other_last():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(50, 3))
    inputs = np.concatenate([inputs, inputs[:, :1]], 1)  # the last is the first again
    weight = torch.tensor([[1.0, 0.3, 0.3, 1.0]], dtype=torch.float64)
    moment = damped(torch.tensor(inputs.T @ inputs), 1e-6)
    removal = removal_order(weight, moment)
    assert removal.order[0] in (0, 3)
    assert {*removal.order[1:3]} == {1, 2}, "the other of the two is worth more than the rest"
    found = refit(weight, moment, torch.tensor(removal.kept(3)))
    assert float(found.abs().max()) == pytest.approx(2.0, rel=1e-3)


def test_inputs_that_are_always_zero_give_finite_errors():
    removal = removal_order(torch.ones(2, 4), damped(torch.zeros(4, 4), 0.01))
    assert np.isfinite(removal.errors).all()
    assert removal.relative_error(2) <= 1
