"""Fixtures of the core's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package for the test: ``install("hf-distill-x", "1.0", {"x": "module"}, {"module.py": source})``.

    What lies on the path is what pip would leave there, so `importlib.metadata` really finds it.
    """

    def install_package(name: str, version: str, entry_points: dict[str, str], files: dict[str, str]) -> None:
        site = tmp_path / f"site-{name}"
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry_point} = {target}" for entry_point, target in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[hf_distill]", *lines, ""]))
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
        monkeypatch.syspath_prepend(site)

    yield install_package
    for module, loaded in list(sys.modules.items()):
        if str(getattr(loaded, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[module]
