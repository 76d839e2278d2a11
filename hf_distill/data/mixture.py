"""Selectors that mix domains: the share of each domain is fixed here, and moved by subclasses.

    DistillationTrainer(..., selector={"name": "mixture", "weights": {"code": 0.7, "prose": 0.3}})

A subclass overrides `start` and `update` and sets `self.weights`; drawing, state and logging are done here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .selectors import Selector

Weights = NDArray[np.float64]


class MixtureSelector(Selector):
    """Draws the domain of each example from ``Categorical(weights)``, then that domain's next unused example.

    Each domain is passed through in an order of its own; when all its examples were used, a new order begins. The order
    is a pure function of the seed, the domain and the number of the pass, so the state holds only counts.

    Args:
        domain_column: data set column that names each example's domain.
        interval: optimizer steps between two calls of `update`.

    Attributes:
        domains: the domains' names, sorted; everything else by domain is in this order.
        sizes: examples of each domain, int64.
    """

    def __init__(self, *, domain_column: str = "domain", interval: int = 1000) -> None:
        if interval < 1:
            raise ValueError(f"interval is {interval}; expected at least one optimizer step.")
        self.columns = (domain_column,)
        self.domain_column = domain_column
        self.interval = interval

    def setup(self, columns: Mapping[str, Sequence[Any]], *, num_examples: int, seed: int) -> None:
        """Group the examples by domain; the weights start out natural.

        Raises:
            ValueError: there is no domain column, or an example without a domain.
        """
        if self.domain_column not in columns:
            there = ", ".join(columns) or "none of those asked for"
            raise ValueError(f"The training set has no column {self.domain_column!r} for the domain; it has {there}.")
        names = list(columns[self.domain_column])
        if None in names:
            raise ValueError(f"Example {names.index(None)} of the training set has no {self.domain_column!r} (None).")
        domains, members = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        self.domains: tuple[str, ...] = tuple(domains.tolist())
        self.sizes = np.bincount(members, minlength=len(domains))
        # Indices of the examples sorted by domain; stable, so that they do not depend on the sorting algorithm.
        self._members = np.split(np.argsort(members, kind="stable"), np.cumsum(self.sizes)[:-1])
        self._seed = seed
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._used = np.zeros(len(domains), dtype=np.int64)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self.weights = self.natural
        if len(self.domains) == 1:
            warnings.warn(
                f"All examples belong to the domain {self.domains[0]!r}; a selector of domains changes nothing.",
                stacklevel=2,
            )

    @property
    def natural(self) -> Weights:
        """Weights proportional to the domains' sizes."""
        weights: Weights = self.sizes / self.sizes.sum()
        return weights

    @property
    def uniform(self) -> Weights:
        """The same weight for each domain."""
        return np.full(len(self.domains), 1 / len(self.domains))

    @property
    def weights(self) -> Weights:
        """The probability of each domain, ``[N]``, summing to one; what is set is normalised.

        Raises:
            ValueError: set to weights that are negative, not finite, all zero or not one a domain.
        """
        return self._weights

    @weights.setter
    def weights(self, values: ArrayLike) -> None:
        weights = np.array(values, dtype=np.float64)
        if weights.shape != (len(self.domains),):
            raise ValueError(
                f"Got weights of shape {weights.shape}; expected one a domain, {len(self.domains)} in all."
            )
        for domain, weight in zip(self.domains, weights, strict=True):
            if not 0 <= weight < np.inf:
                raise ValueError(f"The weight of domain {domain!r} is {weight}; expected a finite number from zero on.")
        if not weights.any():
            raise ValueError("The weights of all domains are zero; at least one must be positive.")
        self._weights: Weights = weights / weights.sum()

    def by_domain(self, figures: Mapping[str, float]) -> Weights:
        """Figures of a probe as an array in the order of `domains`, ``[N]``; figures of other domains are left out.

        Raises:
            ValueError: a domain of the training set has no figure.
        """
        if missing := [domain for domain in self.domains if domain not in figures]:
            raise ValueError(
                f"The probe set has no examples of the domains {', '.join(missing)}, which the training set has; "
                f"it has {', '.join(figures)}."
            )
        return np.array([figures[domain] for domain in self.domains], dtype=np.float64)

    def draw(self, num_examples: int) -> list[int]:
        """The indices of the next `num_examples` examples; drawing in parts gives the same as drawing at once."""
        bounds = np.cumsum(self._weights)
        choices = np.searchsorted(bounds / bounds[-1], self._generator.random(num_examples), side="right")
        indices = np.empty(num_examples, dtype=np.int64)
        for domain in np.unique(choices).tolist():
            places = np.flatnonzero(choices == domain)
            indices[places] = self._take(domain, len(places))
        drawn: list[int] = indices.tolist()
        return drawn

    def _take(self, domain: int, count: int) -> NDArray[np.int64]:
        """The next `count` examples of a domain."""
        used, size = int(self._used[domain]), int(self.sizes[domain])
        self._used[domain] += count
        parts = []
        while count:
            passes, cursor = divmod(used, size)
            parts.append(self._order(domain, passes)[cursor : cursor + count])
            used += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    def _order(self, domain: int, passes: int) -> NDArray[np.int64]:
        """The domain's examples in the order of pass number `passes`; only the current one is kept in memory."""
        if self._orders.get(domain, (-1,))[0] != passes:
            shuffler = np.random.Generator(np.random.PCG64([self._seed, domain, passes]))
            self._orders[domain] = (passes, shuffler.permutation(self._members[domain]))
        return self._orders[domain][1]

    def state_dict(self) -> dict[str, Any]:
        """Weights, sizes and used examples by domain, and the generator's state."""
        return {
            "domains": list(self.domains),
            "sizes": self.sizes.tolist(),
            "seed": self._seed,
            "weights": self._weights.tolist(),
            "used": self._used.tolist(),
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the training set's domains are not those of the checkpoint.
        """
        saved = dict(zip(state["domains"], state["sizes"], strict=True))
        here = dict(zip(self.domains, self.sizes.tolist(), strict=True))
        if saved != here:
            raise ValueError(
                f"The checkpoint was made on domains of sizes {saved}, the training set has {here}. "
                "Resume with the same training set, or start afresh from the checkpoint's model."
            )
        self._seed = state["seed"]
        self._orders.clear()
        # Not through the setter: dividing by a sum that is not exactly one would move the weights by a rounding error.
        self._weights = np.array(state["weights"], dtype=np.float64)
        self._used = np.array(state["used"], dtype=np.int64)
        self._generator.bit_generator.state = state["generator"]

    def logs(self) -> dict[str, float]:
        """The weight of each domain, as ``mixture/<domain>``."""
        return {f"mixture/{domain}": float(weight) for domain, weight in zip(self.domains, self._weights, strict=True)}


class FixedMixture(MixtureSelector):
    """Domains in fixed shares, whatever their sizes.

    Args:
        weights: "natural" (proportional to size), "uniform", or the weight of each domain, which need not sum to one;
            zero leaves a domain out.
        domain_column: data set column that names each example's domain.
    """

    def __init__(
        self, *, weights: Literal["natural", "uniform"] | dict[str, float] = "natural", domain_column: str = "domain"
    ) -> None:
        super().__init__(domain_column=domain_column)
        if isinstance(weights, str) and weights not in ("natural", "uniform"):
            raise ValueError(f'weights is {weights!r}; expected "natural", "uniform" or a mapping of domain to weight.')
        # Domains are compared as text: a YAML file may name them by numbers.
        self._shares = weights if isinstance(weights, str) else {str(name): share for name, share in weights.items()}

    def setup(self, columns: Mapping[str, Sequence[Any]], *, num_examples: int, seed: int) -> None:
        """Group the examples by domain and set the shares.

        Raises:
            ValueError: `weights` names a domain that has no examples, or leaves one out that has.
        """
        super().setup(columns, num_examples=num_examples, seed=seed)
        if isinstance(self._shares, str):
            self.weights = self.natural if self._shares == "natural" else self.uniform
            return
        if wrong := sorted(set(self._shares) ^ set(self.domains)):
            raise ValueError(
                f"weights and the training set differ in the domains {', '.join(wrong)}. Give one weight (zero leaves "
                f"a domain out) to each domain that has examples: {', '.join(self.domains)}."
            )
        self.weights = [self._shares[domain] for domain in self.domains]
