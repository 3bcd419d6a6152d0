"""Fetch named files of a pinned commit from the hub: no remote code, no pickles, no minutes of retries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from bench.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")


def require_commit(what: str, revision: str | None) -> str:
    """Return a revision that cannot move: the 40 hex digits of a commit.

    Raises:
        UserError: For a branch, a tag or nothing at all.
    """
    if revision is None or not COMMIT.fullmatch(revision):
        raise UserError(
            f"{what}: revision {revision!r} may move; pin the commit, 40 hex digits from the page 'Files and versions'"
        )
    return revision


def offline() -> bool:
    """Say whether ``HF_HUB_OFFLINE`` forbids the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def cached(repository: str, revision: str, kind: Literal["model", "dataset"]) -> Path:
    """Return where the hub's cache keeps a commit, whether it has it or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"{kind}s--{repository.replace('/', '--')}", "snapshots", revision)


def fetch(repository: str, revision: str, patterns: Sequence[str], kind: Literal["model", "dataset"]) -> Path:
    """Return the folder of a commit with the files that match, out of the hub's own cache where they are there.

    Raises:
        UserError: Where the hub is forbidden (``HF_HUB_OFFLINE``), out of reach, or has no such repository or commit.
    """
    from huggingface_hub import constants, get_session, snapshot_download

    what = f"{kind} {repository}@{revision}"
    download = partial(
        snapshot_download, repository, repo_type=kind, revision=revision, allow_patterns=list(patterns)
    )
    try:
        return Path(download(local_files_only=True))
    except FileNotFoundError as error:
        if offline():
            raise UserError(
                f"{what} is not in the hub's cache and HF_HUB_OFFLINE forbids fetching it"
            ) from error
    try:
        get_session().head(constants.ENDPOINT, timeout=10)  # one try: the client's own retries take 23 s
        return Path(download())
    except Exception as error:  # the HTTP library below varies with the client
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"cannot fetch {what} from {constants.ENDPOINT}: {said}") from error
