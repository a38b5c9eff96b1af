"""A hub on this machine with one data set: as much of its interface as ``datasets`` asks for."""

import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any

NAME = "me/tiny"
COMMIT = "0123456789" * 4
_FILES = f"/datasets/{NAME}/resolve/"
_TREE = f"/api/datasets/{NAME}/tree/{COMMIT}"
_ABOUT = f"/api/datasets/{NAME}"


class FakeHub:
    """Serves the files below ``folder`` as the data set ``me/tiny``, from a thread.

    Attributes:
        asked: Method and path of all requests so far.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        content = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def answer(self) -> None:
                path = self.path.partition("?")[0]
                asked.append(f"{self.command} {path}")
                status, headers, body = _answer(path, content)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = answer  # noqa: N815

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _answer(path: str, content: dict[str, bytes]) -> tuple[int, dict[str, str], bytes]:
    if path == "/":
        return 200, {}, b"a hub"
    if path.startswith(_FILES):
        name = path.removeprefix(_FILES).partition("/")[2]
        if name in content:
            tag = hashlib.sha256(content[name]).hexdigest()
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, content[name]
        return 404, {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"}, b"{}"
    if path.startswith(_TREE):
        inside = f"{path.removeprefix(_TREE)}/".lstrip("/")
        entries = _entries(inside, content)
        return (200, {}, json.dumps(entries).encode()) if entries else (404, {"X-Error-Code": "EntryNotFound"}, b"{}")
    if path == _ABOUT or path.startswith(f"{_ABOUT}/revision/"):
        about = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in content]}
        return 200, {}, json.dumps(about).encode()
    return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def _entries(folder: str, content: dict[str, bytes]) -> list[dict[str, Any]]:
    """What lies directly in ``folder``, which ends in a slash, or is empty."""
    inside = {name.removeprefix(folder): body for name, body in content.items() if name.startswith(folder)}
    folders = sorted({name.partition("/")[0] for name in inside if "/" in name})
    return [
        *({"type": "directory", "path": folder + name, "oid": COMMIT} for name in folders),
        *(
            {"type": "file", "path": folder + name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in inside.items()
            if "/" not in name
        ),
    ]
