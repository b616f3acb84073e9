"""As much of the Hugging Face Hub as its client asks for, on this machine: repositories, commits, large files."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "hf_test"
SHA = "0" * 39 + "1"


class FakeHub(http.server.ThreadingHTTPServer):
    """Its content: (kind, name) -> {path: bytes}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, name: str, folder: Path, **more: bytes) -> None:
        """A public model of the files of a folder."""
        files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        self.repos["models", name], self.private["models", name] = files | more, False

    def fetched(self) -> set[str]:
        """The files that were asked for, by name."""
        return {path.partition("/resolve/")[2].partition("/")[2] for path in self.asked if "/resolve/" in path}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body, hub = self.body(), self.server
        path = self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == parts[1]
            hub.large[parts[1]] = body
            self.send({})
        elif path == "/api/validate-yaml":
            self.send({"errors": [], "warnings": []})
        elif self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send({"error": "no"}, 401)
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif "preupload" in parts:
            named = json.loads(body)["files"]
            self.send(
                {"files": [{"path": f["path"], "uploadMode": mode_of(f["path"]), "shouldIgnore": False} for f in named]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {o["oid"]: {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}} for o in objects}
            self.send({"transfer": "basic", "objects": [o | {"actions": upload[o["oid"]]} for o in objects]})
        elif "commit" in parts:
            self.commit(parts[1], "/".join(parts[2:4]), body)
        elif path == "/api/whoami-v2":
            self.send({"type": "user", "name": "me"})
        elif parts[:2] in (["api", "models"], ["api", "datasets"]):
            repo = parts[1], "/".join(parts[2:4])
            files = hub.repos.get(repo)
            if files is None:
                self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            else:
                tree = [{"type": "file", "path": f, "size": len(c), "oid": SHA} for f, c in files.items()]
                about = {"id": repo[1], "sha": SHA, "private": hub.private[repo]}
                self.send(tree if "tree" in parts else about | {"siblings": [{"rfilename": f} for f in files]})
        elif "resolve" in parts:
            content = hub.repos["models", "/".join(parts[:2])]["/".join(parts[4:])]
            self.send(content, 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA})
        else:
            self.send({})

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def create(self, asked: dict[str, Any]) -> None:
        kind = {"dataset": "datasets"}.get(asked.get("type") or "model", "models")
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        there = (kind, name) in self.server.repos  # what it is then stays as it is, its visibility too
        self.server.repos.setdefault((kind, name), {})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.private.setdefault((kind, name), private)
        folder = "datasets/" if kind == "datasets" else ""
        self.send({"url": f"{self.server.address}/{folder}{name}", "name": name}, 409 if there else 200)

    def commit(self, kind: str, name: str, body: bytes) -> None:
        files = self.server.repos[kind, name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        folder = "datasets/" if kind == "datasets" else ""
        address = f"{self.server.address}/{folder}{name}/commit/{SHA}"
        self.send({"commitUrl": address, "commitOid": SHA, "success": True})

    def body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        read = b""
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return read

    def send(self, content: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def mode_of(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
