"""Find plugins by entry point: methods, tasks and runtimes, ours and third parties' alike.

Nothing is imported until it is asked for: names come from package metadata, literals and digests from source files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from bench.errors import UserError, unknown

if TYPE_CHECKING:
    from bench.anatomy.contract import Dissect
    from bench.latency.runtimes import Runtime
    from bench.method import Method
    from bench.tasks.task import Task

T = TypeVar("T")
SHARED_PACKAGES = ("methods", "moebert")  # of the suite, whose sources decide what a method does


@cache
def installed(group: str, path: tuple[str, ...]) -> EntryPoints:  # noqa: ARG001 - what is found depends on it
    """Return the entry points of a group; a matrix asks a thousand times, and each search opens every package."""
    return entry_points(group=group)


class Registry(Generic[T]):
    """Map names to plugins of one entry-point group.

    Args:
        kind: What an error message calls one of them.
        group: Entry-point group.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({entry.name for entry in installed(self.group, tuple(sys.path))})

    def entry(self, name: str) -> EntryPoint:
        """Return the entry point of a name.

        Raises:
            UserError: Where the name is unknown, or two packages claim it.
        """
        found = {entry.value: entry for entry in installed(self.group, tuple(sys.path)) if entry.name == name}
        if not found:
            raise unknown(self.kind, name, self.names())
        if len(found) > 1:
            claims = sorted(f"{distribution_of(entry)} ({entry.value})" for entry in found.values())
            raise UserError(
                f"{self.kind} {name!r} is registered by {len(found)} packages: {', '.join(claims)}; "
                "uninstall one or rename its entry point"
            )
        return next(iter(found.values()))

    def get(self, name: str) -> T:
        """Import and return a plugin.

        Raises:
            UserError: Where the name is unknown or its package does not import.
        """
        entry = self.entry(name)
        try:
            plugin: T = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"{self.kind} {name!r} of package {distribution_of(entry)} does not import: {error}"
            ) from error
        return plugin

    def source(self, name: str) -> Path:
        """Return the file that holds a plugin, without importing it."""
        entry = self.entry(name)
        spec = find_module(entry.module)
        if spec is None or not spec.origin:
            raise UserError(f"{self.kind} {name!r}: module {entry.module} is not installed")
        return Path(spec.origin)

    def literals(self, name: str) -> dict[str, str]:
        """Read the string attributes of a plugin's class from its source, without importing it."""
        entry = self.entry(name)
        tree = ast.parse(self.source(name).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == entry.attr:
                return dict(_string_assignments(node))
        return {}

    def source_sha256(self, name: str) -> str:
        """Digest a plugin's source and the first-party modules that it imports, directly or not.

        First-party are the plugin's own top-level package and the suite's ``methods`` and ``moebert``.
        """
        return _source_sha256(self.entry(name).module)


methods: Registry[type[Method]] = Registry("method", "moebench.methods")
tasks: Registry[Task] = Registry("task", "moebench.tasks")
runtimes: Registry[type[Runtime]] = Registry("runtime", "moebench.runtimes")
anatomies: Registry[Dissect] = Registry("model type with experts", "moebench.anatomies")


def distribution_of(entry: EntryPoint) -> str:
    """Name the package that registers an entry point."""
    return entry.dist.name if entry.dist is not None else "an unknown package"


def find_module(name: str) -> ModuleSpec | None:
    """Find a module's spec without importing it or its parents."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for depth, _ in enumerate(rest, start=1):
        if spec is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *rest[:depth]]), spec.submodule_search_locations)
    return spec


def _string_assignments(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        for target in targets:
            if (
                isinstance(target, ast.Name)
                and isinstance(value, ast.Constant)
                and isinstance(value.value, str)
            ):
                yield target.id, value.value


@cache
def _source_sha256(module: str) -> str:
    first_party = {module.split(".", maxsplit=1)[0], *SHARED_PACKAGES}
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources or name.split(".")[0] not in first_party:
            continue
        spec = find_module(name)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            continue
        sources[name] = Path(spec.origin).read_bytes()
        waiting.extend(_imports(sources[name], name, is_package=spec.submodule_search_locations is not None))
    joined = hashlib.sha256()
    for name in sorted(sources):
        joined.update(f"{name}\0{hashlib.sha256(sources[name]).hexdigest()}\n".encode())
    return joined.hexdigest()


def _imports(source: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[
                    : None if is_package and node.level == 1 else -(node.level - is_package)
                ]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
