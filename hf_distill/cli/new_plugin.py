"""``hf-distill new-plugin NAME --kind KIND``: a package with a component that works, to be changed into one's own."""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path
from string import Template

from .._version import __version__
from ..plugins.manager import Plugins

# The registry of each kind, in which a name may be taken already.
KINDS = {
    "loss": "losses",
    "teacher": "teachers",
    "selector": "selectors",
    "generator": "generators",
    "student": "students",
    "metric": "metrics",
    "command": "commands",
}
TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = ".tmpl"


def new_plugin(argv: list[str]) -> int:
    """Write the package and say what to do with it."""
    parser = argparse.ArgumentParser(
        prog="hf-distill new-plugin", description="Write a plugin package that installs, is found and passes its tests."
    )
    parser.add_argument("name", help="what it is called: small letters, digits and hyphens (my-loss)")
    parser.add_argument("--kind", choices=KINDS, required=True, help="what it adds")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    options = parser.parse_args(argv)
    folder = write_plugin(options.name, options.kind, options.output)
    print(f"Wrote {folder}. Next: pip install -e '{folder}[test]' && pytest {folder}")
    return 0


def write_plugin(name: str, kind: str, output: Path) -> Path:
    """Write the package ``hf-distill-<name>`` into a new folder of that name under `output`.

    Args:
        name: of the plugin and of its component.
        kind: one of `KINDS`.
        output: the folder that gets it; is made where it does not exist.

    Returns:
        The package's folder.

    Raises:
        ValueError: the name is malformed or taken, or the folder exists.
    """
    name = name.removeprefix("hf-distill-").replace("_", "-")
    component = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(component):
        raise ValueError(
            f"{name!r} is no name for a plugin; expected small letters, digits and hyphens, as in my-loss."
        )
    taken = [one for one in Plugins().available()[0] if (one.family, one.name) == (KINDS[kind], component)]
    if taken:
        raise ValueError(f"There is a {taken[0]} already; choose another name.")
    folder = output / f"hf-distill-{name}"
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose another name or --output.")
    words = {
        "kind": kind,
        "distribution": folder.name,
        "module": folder.name.replace("-", "_"),
        "component": component,
        "title": "".join(part.capitalize() for part in name.split("-")),
        "version": ".".join(__version__.split(".")[:2]),
        "next_version": _next_version(__version__),
    }
    for part in ("common", kind):
        for template in sorted((TEMPLATES / part).rglob(f"*{_SUFFIX}")):
            path = template.relative_to(TEMPLATES / part).as_posix().removesuffix(_SUFFIX)
            target = folder / path.replace("MODULE", words["module"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return folder


def _next_version(version: str) -> str:
    """The first version that may break plugins: the next minor one before 1.0, the next major one after."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"0.{minor + 1}" if major == 0 else str(major + 1)
