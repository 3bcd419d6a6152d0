"""A hub on this machine: the three requests that fetching named files of a commit makes, and nothing else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve ``root/<datasets|models>/<owner>/<name>/<commit>/...``; yield the address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path == "/" or not any(verb in path for verb in ("/tree/", "/resolve/")):
                self.send(b"", {}, body)  # is anybody there; and what the client tells about itself
                return
            asked.append(path)
            listing, kind, owner, name, commit, inner = parse(path)
            folder = root / kind / owner / name / commit
            if not folder.is_dir():
                self.send(b"{}", {"X-Error-Code": "RevisionNotFound"}, body, status=404)
            elif listing:
                entries = [entry(file, folder) for file in sorted(folder.rglob("*")) if file.is_file()]
                self.send(json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
            else:
                content = (folder / inner).read_bytes()
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
                self.send(content, headers, body)

        def send(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def parse(path: str) -> tuple[bool, str, str, str, str, str]:
    """Take ``/api/<kind>/<owner>/<name>/tree/<commit>`` or ``[/datasets]/<owner>/<name>/resolve/<commit>/…`` apart."""
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        _, kind, owner, name, verb, commit, *inner = parts
        assert verb == "tree", path
    else:
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        owner, name, verb, commit, *inner = parts
        assert verb == "resolve", path
    return parts[0] == "api", kind, owner, name, commit, "/".join(inner)


def entry(file: Path, folder: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {
        "type": "file",
        "path": file.relative_to(folder).as_posix(),
        "size": len(content),
        "oid": hashlib.sha256(content).hexdigest(),
    }
