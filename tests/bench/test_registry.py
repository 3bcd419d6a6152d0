from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.registry import Registry, _imports, find_module, methods


def install(folder: Path, name: str, entry_points: str, **modules: str) -> None:
    """Lay out a package as pip would have installed it."""
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_our_own_methods_are_found_through_entry_points_alone():
    names = methods.names()
    assert {"finetune", "distilbert", "tinybert", "prune-structured", "prune-magnitude", "moebert"} <= set(
        names
    )


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(
        UserError, match=r"unknown method 'moebrt'; did you mean 'moebert'\? known: .*distilbert"
    ):
        methods.get("moebrt")


def test_two_packages_with_one_name_are_an_error_naming_both(site):
    install(site, "alpha", "[moebench.methods]\nsame = alpha_code:A\n", alpha_code="class A: pass\n")
    install(site, "beta", "[moebench.methods]\nsame = beta_code:B\n", beta_code="class B: pass\n")
    with pytest.raises(
        UserError, match=r"registered by 2 packages: alpha \(alpha_code:A\), beta \(beta_code:B\)"
    ):
        methods.get("same")
    assert "same" in methods.names()


def test_literals_are_read_without_importing(site):
    source = (
        "raise SystemExit('imported')\nclass Late:\n    name = 'late'\n    summary: str = 'never imported'\n"
    )
    install(site, "lately", "[moebench.methods]\nlate = late_code:Late\n", late_code=source)
    assert methods.literals("late") == {"name": "late", "summary": "never imported"}
    assert "late_code" not in sys.modules


def test_a_plugin_that_does_not_import_names_its_package(site):
    install(
        site, "broken", "[moebench.methods]\nbroken = broken_code:B\n", broken_code="import nothing_here\n"
    )
    with pytest.raises(
        UserError, match="'broken' of package broken does not import: No module named 'nothing_here'"
    ):
        methods.get("broken")


def test_the_digest_follows_first_party_imports_and_no_others(site):
    package = site / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(
        "import json\nfrom mine import part\nfrom . import other\nclass M: pass\n"
    )
    (package / "part.py").write_text("A = 1\n")
    (package / "other.py").write_text("B = 1\n")
    install(site, "mine", "[moebench.methods]\nmine = mine.method:M\n")

    def now():
        from bench.registry import _source_sha256

        _source_sha256.cache_clear()
        return methods.source_sha256("mine")

    before = now()
    (package / "unrelated.py").write_text("C = 1\n")
    assert now() == before
    for part in ("part.py", "other.py", "method.py"):
        kept = (package / part).read_text()
        (package / part).write_text(kept + "# changed\n")
        assert now() != before, part
        (package / part).write_text(kept)
    assert now() == before


@pytest.mark.parametrize(
    ("source", "is_package", "expected"),
    [
        ("from . import x", False, {"a.b", "a.b.x"}),
        ("from . import x", True, {"a.b.c", "a.b.c.x"}),
        ("from .y import x", False, {"a.b.y", "a.b.y.x"}),
        ("from ..y import x", False, {"a.y", "a.y.x"}),
        ("from ..y import x", True, {"a.b.y", "a.b.y.x"}),
        ("import k.l", False, {"k.l"}),
    ],
)
def test_imports_are_resolved_as_python_would(source, is_package, expected):
    assert set(_imports(source.encode(), "a.b.c", is_package=is_package)) == expected


def test_modules_are_found_without_importing_their_parents():
    spec = find_module("xml.sax.handler")
    assert spec is not None
    assert spec.origin.endswith("handler.py")
    assert find_module("no_such_package.module") is None


def test_an_empty_group_says_so():
    with pytest.raises(UserError, match="unknown thing 'x'; known: none"):
        Registry("thing", "moebench.nothing").get("x")
