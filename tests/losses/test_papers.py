"""Papers of losses as data: what they print, and that every loss of this repository says where it comes from."""

from __future__ import annotations

import functools
from pathlib import Path

from hf_distill import Paper, Plugins, RowLoss, paper_of, row_loss

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.name.removeprefix("hf-distill-") for path in (ROOT / "plugins").glob("hf-distill-*"))
# Losses whose docstring names no paper.
WITHOUT_PAPER = {"hellinger"}


def test_a_citation_and_an_entry_hold_what_is_known():
    paper = Paper("Hinton, Vinyals and Dean", 2015, title="Distilling", name="KD", arxiv="1503.02531")
    assert paper.citation == "Hinton, Vinyals and Dean (2015), Distilling, arXiv:1503.02531"
    assert paper.link == "https://arxiv.org/abs/1503.02531"
    assert paper.bibtex() == (
        "@misc{hinton2015KD,\n"
        "  author = {Hinton and Vinyals and Dean},\n"
        "  title = {Distilling},\n"
        "  year = {2015},\n"
        "  eprint = {1503.02531},\n"
        "  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/1503.02531},\n"
        "}"
    )
    short = Paper("Cao et al.", 2007, name="ListNet")
    assert short.citation == "Cao et al. (2007), ListNet"
    assert short.bibtex().splitlines()[:3] == [
        "@misc{cao2007ListNet,",
        "  author = {Cao and others},",
        "  title = {ListNet},",
    ]
    assert "arXiv" not in short.bibtex()
    assert "url" not in short.bibtex()
    assert Paper("Cao", 2007, url="https://example.org/p").citation == "Cao (2007), https://example.org/p"


def test_the_paper_of_a_loss_is_found_on_functions_classes_and_instances():
    paper = Paper("Someone", 2020)

    @row_loss(paper=paper)
    def function(student_logits, teacher_logits, *, power: float = 1.0):
        return student_logits

    class Module(RowLoss):
        def forward(self, student_logits, teacher_logits):
            return student_logits

    assert paper_of(function) == paper_of(functools.partial(function, power=2.0)) == paper
    assert paper_of(Module) is paper_of(Module()) is paper_of(len) is None
    assert paper_of(Plugins().losses.get("forward_kl")).arxiv == "1503.02531"
    Module.paper = paper
    assert paper_of(Module) == paper_of(Module()) == paper


def test_every_registered_loss_has_a_paper_or_says_that_it_has_none():
    losses = {loss.name: loss.resolve() for loss in Plugins(PACKAGES).losses}
    assert len(losses) > 40
    for name, loss in losses.items():
        assert hasattr(loss, "paper"), f"{name}: set paper, to None where there is none"
        assert (paper_of(loss) is None) == (name in WITHOUT_PAPER), name


def test_numbers_of_papers_are_those_that_docstrings_name():
    for loss in Plugins(PACKAGES).losses:
        target = loss.resolve()
        paper = paper_of(target)
        if paper is not None:
            assert paper.arxiv in target.__doc__, loss.name
            assert str(paper.year) in target.__doc__, loss.name
