"""Write a package with a working method and its test: ``moebench new-method NAME``."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

from bench import registry
from bench.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def scaffold(name: str, folder: Path) -> list[Path]:
    """Write the package ``folder/name``.

    Args:
        name: Lower-case words and digits, joined by hyphens; the method's name and the distribution's.
        folder: Where the package goes; made if it is not there.

    Returns:
        The files written.

    Raises:
        UserError: For a name that cannot be one or is taken, or a package that is there already.
    """
    module = _module(name)
    package = folder / name
    if package.exists():
        raise UserError(f"{package}: there already; nothing was written")
    words = {
        "name": name,
        "module": module,
        "class_name": "".join(word.capitalize() for word in name.split("-")),
    }
    package.mkdir(parents=True)
    written = []
    for template in sorted(files("bench").joinpath("templates/method").iterdir(), key=lambda file: file.name):
        target = package / template.name.removesuffix(".tmpl").replace("method.py", f"{module}.py")
        target.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
        written.append(target)
    return written


def _module(name: str) -> str:
    """Check a method's name and turn it into a module's."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a method: use lower-case words and digits, as in 'my-method'")
    if name in registry.methods.names():
        package = registry.distribution_of(registry.methods.entry(name))
        raise UserError(f"method {name!r} is there already, in package {package}; choose another name")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise UserError(f"{name!r} cannot name a method: Python has a module {module!r}; choose another name")
    return module
