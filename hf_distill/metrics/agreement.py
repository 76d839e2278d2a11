"""How often, and how closely, a student predicts what its teacher predicts."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from .distributions import check_distributions

_DESCRIPTION = "Agreement of a student's predictions with its teacher's, and probability loyalty of distributions."
_INPUTS = """
Args:
    predictions: the student's classes, [n] integers, or its distributions, [n, C] probabilities.
    references: the same of the teacher.
Returns:
    top1_agreement: share of rows where the most likely classes agree, in [0, 1].
    probability_loyalty: mean of 1 - sqrt(JSD), base 2, in [0, 1]; only where distributions are given.
"""
_CITATION = """
@inproceedings{xu-etal-2021-beyond,
  title = {Beyond Preserved Accuracy: Evaluating Loyalty and Robustness of {BERT} Compression},
  author = {Xu, Canwen and Zhou, Wangchunshu and Ge, Tao and Xu, Ke and McAuley, Julian and Wei, Furu},
  booktitle = {EMNLP}, year = {2021}, note = {arXiv:2109.03228}
}
"""


class TeacherAgreement(evaluate.Metric):  # type: ignore[misc]
    """Top-1 agreement ("label loyalty") and probability loyalty ``mean(1 - sqrt(JSD(p_student, p_teacher)))``.

    Paper: Xu et al. 2021, arXiv:2109.03228. The base of the logarithm, 2 (loyalty is then in [0, 1]), was reconstructed
    from secondary descriptions and not confirmed in the paper.

        TeacherAgreement().compute(predictions=student_probabilities, references=teacher_probabilities)
    """

    def _info(self) -> evaluate.MetricInfo:
        distribution = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
                datasets.Features({"predictions": distribution, "references": distribution}),
            ],
        )

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        student, teacher = np.asarray(predictions), np.asarray(references)
        if student.shape != teacher.shape:
            raise ValueError(f"The student's predictions are {student.shape}, the teacher's {teacher.shape}.")
        if student.ndim == 1:
            return {"top1_agreement": float((student == teacher).mean())}
        return {
            "top1_agreement": float((student.argmax(-1) == teacher.argmax(-1)).mean()),
            "probability_loyalty": _loyalty(check_distributions(student), check_distributions(teacher)),
        }


def _loyalty(student: npt.NDArray[Any], teacher: npt.NDArray[Any]) -> float:
    middle = (student + teacher) / 2
    divergence = (_relative_entropy(student, middle) + _relative_entropy(teacher, middle)) / 2
    # Rounding may leave it a little below zero for equal distributions.
    return float((1 - np.sqrt(divergence.clip(min=0))).mean())


def _relative_entropy(rows: npt.NDArray[Any], middle: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``[n]`` in bits; where a row has no mass it adds nothing."""
    ratio = np.divide(rows, middle, out=np.ones_like(rows), where=rows > 0)
    total: npt.NDArray[Any] = (rows * np.log2(ratio)).sum(-1)
    return total
