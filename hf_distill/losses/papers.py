"""Where a loss comes from, as data that cards, documentation and commands can read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..plugins.registry import Component


@dataclass(frozen=True)
class Paper:
    """A paper to cite.

    Attributes:
        authors: as a reference names them: "Hinton, Vinyals and Dean", "Ko et al.".
        year: of the first version.
        title: empty where only its short name is known.
        name: what the method is called, where it has a name of its own ("MiniLLM").
        arxiv: its number on arXiv.
        url: where it is, for papers that are not on arXiv.
    """

    authors: str
    year: int
    title: str = ""
    name: str = ""
    arxiv: str = ""
    url: str = ""

    @property
    def link(self) -> str:
        """Where to read it; empty where that is not known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    @property
    def citation(self) -> str:
        """One line: "Ko et al. (2024), DistiLLM, arXiv:2402.03898"."""
        parts = [f"{self.authors} ({self.year})", self.title or self.name, self.arxiv and f"arXiv:{self.arxiv}"]
        return ", ".join(filter(None, [*parts, "" if self.arxiv else self.url]))

    def bibtex(self) -> str:
        """An entry for a bibliography, with what is known of the paper."""
        authors = self.authors.replace(", ", " and ").replace(" et al.", " and others")
        fields = {"author": authors, "title": self.title or self.name, "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        fields |= {"url": self.link}
        key = "".join(filter(str.isalnum, f"{self.authors.replace(',', ' ').split()[0].lower()}{self.year}{self.name}"))
        lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
        return "\n".join([f"@misc{{{key},", *lines, "}"])


def paper_of(loss: Any) -> Paper | None:
    """The paper of a loss: of a class, an instance, a row function or one with options bound, or of a registry's entry.

    None where there is none, or where the loss does not say.

    Raises:
        PluginError: the loss of an entry cannot be imported.
    """
    if isinstance(loss, Component):
        loss = loss.resolve()
    while isinstance(loss, functools.partial):
        loss = loss.func
    paper = getattr(loss, "paper", None)
    return paper if isinstance(paper, Paper) else None
