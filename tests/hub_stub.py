"""A Hub in sixty lines: enough of its protocol to create a repository, upload a folder and download its files.

Text files only (no LFS, no Xet): set `HF_ENDPOINT` to the address that `serve` yields.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


@contextlib.contextmanager
def serve(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serve `repositories` ("spaces/me/jsd" -> file name -> content) on a free local port; uploads land in the mapping."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            found = re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", self.path)
            files = repositories.get(found[1]) if found else None
            if files is None or found[2] not in files:
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound" if files is None else "EntryNotFound"})
            content = files[found[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag})

        def do_POST(self):
            body = self.body()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
                repositories.setdefault(name, {})
                return self.json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
            if self.path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            repository = re.match(r"/api/(.+?)/(?:preupload|commit)/", self.path)[1]
            if "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
                return self.json({"files": modes})
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    repositories[repository][entry["value"]["path"]] = content
            return self.json(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}",
                }
            )

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status, content, headers):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
