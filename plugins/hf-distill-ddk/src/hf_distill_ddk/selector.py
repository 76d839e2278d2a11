"""The selector: measures how far the student is behind the teacher in each domain, and mixes the domains by that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hf_distill import MixtureSelector, Probe

from .recursion import Factors, log_factors_initial, log_factors_update, perplexity_ratios


class DDKSelector(MixtureSelector):
    """Mixes domains by how far the student's perplexity is above the teacher's, smoothly over time.

    Every `interval` optimizer steps both models are measured on a probe set (the teacher once, it is frozen), and the
    domain factors move by Eq. 2; the examples of the next interval are drawn from them. The paper leaves seven things
    open; each is settled here as follows.

    1. Eq. 3 is written over the probe inputs; training is on the drawn examples only.
    2. The order of arguments of the KL is that of the losses: forward KL is what the text describes.
    3. Algorithm 1 trains the first interval on a random sample although the factors exist: `initial_mix`.
    4. The mean cross-entropy is over tokens; then the exponential is taken.
    5. The exponential of a large ratio overflows: logarithms are used, and `max_ratio` may cut ratios.
    6. Perplexities per token of different tokenizers cannot be compared: `measure`.
    7. Factors move after step `interval`, 2 x `interval` ...; the first interval has none. Algorithm 1's stop (all
       ratios near one) is not implemented; the trainer's steps, or a callback, end the training.

    Args:
        domain_column: column of the training and probe sets that names each example's domain.
        interval: K, optimizer steps between two measurements.
        alpha: how much of the factors follows the ratios; the rest is shared equally. 0 samples domains equally, 1 has
            no lower bound.
        initial_mix: how the first interval is mixed: "natural" (a plain random sample, as the paper does), "uniform",
            or "r0" (the initial factors).
        factor_smoothing: False takes Eq. 1 at every interval, the paper's ablation.
        measure: "perplexity" per token, or "bits_per_byte" (perplexity per byte) for models with different tokenizers.
        max_ratio: larger ratios count as this one; None leaves them.

    Attributes:
        history: step, weights and ratios by domain of the start and of every measurement.

    Raises:
        ValueError: an option out of its range.

    Paper: Liu et al. 2024, "DDK: Distilling Domain Knowledge for Efficient Large Language Models", arXiv:2407.16154,
        Eq. 1, Eq. 2 and Algorithm 1.
    """

    needs_probe = True

    def __init__(
        self,
        *,
        domain_column: str = "domain",
        interval: int = 1000,
        alpha: float = 0.5,
        initial_mix: Literal["natural", "uniform", "r0"] = "natural",
        factor_smoothing: bool = True,
        measure: Literal["perplexity", "bits_per_byte"] = "perplexity",
        max_ratio: float | None = None,
    ) -> None:
        super().__init__(domain_column=domain_column, interval=interval)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; expected a number from 0 to 1.")
        if initial_mix not in ("natural", "uniform", "r0"):
            raise ValueError(f'initial_mix is {initial_mix!r}; expected "natural", "uniform" or "r0".')
        if measure not in ("perplexity", "bits_per_byte"):
            raise ValueError(f'measure is {measure!r}; expected "perplexity" or "bits_per_byte".')
        if max_ratio is not None and not max_ratio > 0:
            raise ValueError(f"max_ratio is {max_ratio}; expected a positive number.")
        self.alpha = alpha
        self.initial_mix = initial_mix
        self.factor_smoothing = factor_smoothing
        self.measure = measure
        self.max_ratio = max_ratio
        self.history: list[dict[str, Any]] = []

    def start(self, probe: Probe | None) -> None:
        """Eq. 1 for the initial factors, and the mixture of the first interval.

        Raises:
            ValueError: there is no probe set, or it lacks a domain.
        """
        ratios = self._ratios(probe)
        self._log_factors = log_factors_initial(ratios)
        mixtures = {"natural": self.natural, "uniform": self.uniform, "r0": np.exp(self._log_factors)}
        self.weights = mixtures[self.initial_mix]
        self.history = []
        self._record(0, ratios)

    def update(self, step: int, probe: Probe | None) -> None:
        """Eq. 2 (or Eq. 1, without smoothing) on the student as it is after `step`."""
        ratios = self._ratios(probe)
        if self.factor_smoothing:
            self._log_factors = log_factors_update(self._log_factors, ratios, alpha=self.alpha)
        else:
            self._log_factors = log_factors_initial(ratios)
        self.weights = np.exp(self._log_factors)
        self._record(step, ratios)

    def _ratios(self, probe: Probe | None) -> Factors:
        if probe is None:
            raise ValueError(
                "DDK measures student and teacher on a probe set; give the trainer probe_dataset=..., a few hundred "
                f"examples of each domain with a column {self.domain_column!r}."
            )
        figures = probe.cross_entropy if self.measure == "perplexity" else probe.bits_per_byte
        nats = 1.0 if self.measure == "perplexity" else math.log(2)
        student, teacher = (nats * self.by_domain(figures(model)) for model in ("student", "teacher"))
        return perplexity_ratios(student, teacher, max_ratio=self.max_ratio)

    def _record(self, step: int, ratios: Factors) -> None:
        weights, by_domain = (dict(zip(self.domains, x.tolist(), strict=True)) for x in (self.weights, ratios))
        self.history.append({"step": step, "weights": weights, "ratios": by_domain})

    def state_dict(self) -> dict[str, Any]:
        """The mixture's state, the factors and the history."""
        return {**super().state_dict(), "log_factors": self._log_factors.tolist(), "history": list(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self._log_factors = np.array(state["log_factors"])
        self.history = list(state["history"])

    def logs(self) -> dict[str, float]:
        """The mixture, and the last ratios as ``ddk/ratio/<domain>``."""
        ratios = self.history[-1]["ratios"] if self.history else {}
        return {**super().logs(), **{f"ddk/ratio/{domain}": ratio for domain, ratio in ratios.items()}}
