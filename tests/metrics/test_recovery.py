import pytest

from hf_distill.metrics.recovery import recovery


def test_recovery_is_the_share_of_the_gain_whichever_way_is_better():
    assert recovery(0.85, 0.9, 0.8) == pytest.approx(0.5)
    assert recovery(12.0, 10.0, 18.0) == pytest.approx(0.75)  # perplexity: less is better
    assert recovery(0.7, 0.9, 0.8) == pytest.approx(-1)  # worse than without a teacher: not hidden


def test_teacher_without_gain_is_an_error():
    with pytest.raises(ValueError, match="no gain"):
        recovery(0.5, 0.8, 0.8)
