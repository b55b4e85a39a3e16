"""A Hub in eighty lines: enough of its protocol to create a repository, upload a folder and download a commit of its files.

No LFS, no Xet: set `HF_ENDPOINT` to the address that `serve` yields.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serve(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serve `repositories` ("spaces/me/jsd" -> file name -> content) on a free local port; uploads land in the mapping.

    A repository's commit is a digest of its files; each that was asked for can be read again, whatever they are by now.
    """
    commits: dict[str, dict[str, bytes]] = {}
    private: set[str] = set()

    def commit_of(files: dict[str, bytes]) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(files.items()):
            digest.update(f"{name} {len(content)} ".encode() + content)
        commits[digest.hexdigest()] = dict(files)
        return digest.hexdigest()

    def files_of(name: str) -> dict[str, bytes] | None:
        return repositories.get(name, repositories.get(f"models/{name}"))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            about = re.fullmatch(r"/api/(models/[^/]+/[^/]+)(?:/revision/(.+))?", self.path)
            if about and files_of(about[1]) is not None:
                sha = about[2] if about[2] in commits else commit_of(files_of(about[1]))
                return self.json({"id": about[1].removeprefix("models/"), "sha": sha, "private": about[1] in private})
            if "/tree/" in self.path:  # of a folder that there is not
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", self.path)
            files = commits.get(found[2], files_of(found[1])) if found else None
            if files is None or found[3] not in files:
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound" if files is None else "EntryNotFound"})
            content = files[found[3]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, {"X-Repo-Commit": commit_of(files), "ETag": etag})

        def do_POST(self):
            body = self.body()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
                if name not in repositories and (asked.get("private") or asked.get("visibility") == "private"):
                    private.add(name)
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
            sha = commit_of(repositories[repository])
            url = f"http://{self.headers['Host']}/{repository}/commit/{sha}"
            return self.json({"success": True, "commitOid": sha, "commitUrl": url})

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
