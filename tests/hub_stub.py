"""A Hub on this machine: enough of its protocol for the real clients to publish and to read, and to be refused or cut off.

Repositories are created, listed, read at any commit and in parts, and written through preupload, LFS and commit. There is no
Xet: set `HF_ENDPOINT` to the address that `serve` yields, and `HF_HUB_DISABLE_XET`.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

# Files with these names are large for the Hub, however small they are.
LARGE = (".safetensors", ".parquet", ".png")


@dataclass
class Hub:
    """What a local Hub holds and was asked; tests read it, and change it to be refused.

    `repositories` map "spaces/me/jsd" to file names and contents, and uploads land there. A repository's commit is a digest of
    its files; each that was asked for can be read again, whatever they are by now. `cut` is a part of a request, such as
    "PUT /lfs/": the connection is closed without an answer to such requests, once `after` of them were answered.
    """

    repositories: dict[str, dict[str, bytes]]
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    cut: str = ""
    after: int = 0

    def commit_of(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(files.items()):
            digest.update(f"{name} {len(content)} ".encode() + content)
        self.commits[digest.hexdigest()] = dict(files)
        return digest.hexdigest()

    def at(self, name: str, revision: str | None) -> dict[str, bytes] | None:
        """The files of a repository at a commit or at its main branch; None if there is no such revision."""
        if revision in (None, "main"):
            return self.repositories[name]
        return self.commits.get(revision)


@contextlib.contextmanager
def serve(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serve `repositories` on a free local port, and give the address."""
    with serve_hub(Hub(repositories)) as address:
        yield address


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[str]:
    """Serve a Hub on a free local port, and give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            if self.is_cut():
                return None
            path, _, query = self.path.partition("?")
            if path == "/api/whoami-v2":
                if not self.headers.get("Authorization"):
                    return self.refuse(401, "Unauthorized")
                orgs = [{"name": "lab", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}]
                return self.json({"type": "user", "name": "me", "orgs": orgs})
            about = re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?", path)
            if about:
                return self.describe(*about.groups(), recursive="recursive=true" in query.lower())
            found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
            if not found:
                return self.refuse(404, "RepoNotFound")
            kind = "" if found[1].startswith(("datasets/", "spaces/")) else "models/"
            name = kind + found[1]
            if self.is_hidden(name):
                return None
            files = hub.at(name, found[2])
            if files is None or found[3] not in files:
                return self.refuse(404, "RevisionNotFound" if files is None else "EntryNotFound")
            content = files[found[3]]
            etag = oid(content) if not found[3].endswith(LARGE) else hashlib.sha256(content).hexdigest()
            headers = {"X-Repo-Commit": hub.commit_of(files), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not wanted:
                return self.answer(200, content, headers)
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.answer(206, content[first : last + 1], headers)

        def is_hidden(self, name):
            """Whether the client was told that there is no such repository, or that it may not read its files."""
            stranger = not self.headers.get("Authorization")
            if name not in hub.repositories or (stranger and name in hub.private):
                self.refuse(401 if stranger else 404, "RepoNotFound")
            elif name in hub.gated and "/resolve/" in self.path:
                self.refuse(403, "GatedRepo")
            else:
                return False
            return True

        def describe(self, name, what, revision, folder, recursive):
            if self.is_hidden(name):
                return None
            files = hub.at(name, revision)
            if files is None:
                return self.refuse(404, "RevisionNotFound")
            if what != "tree":
                facts = {"id": name.split("/", 1)[1], "sha": hub.commit_of(files), "private": name in hub.private}
                return self.json(facts | {"gated": False, "siblings": [{"rfilename": one} for one in files]})
            within = {one: content for one, content in files.items() if one.startswith(f"{folder}/" if folder else "")}
            if folder and not within:
                return self.refuse(404, "EntryNotFound")
            above = len(folder) + bool(folder)
            inner = {one[: one.index("/", above)] for one in within if "/" in one[above:]}
            listed = [entry(one, content) for one, content in within.items() if recursive or "/" not in one[above:]]
            return self.json([*listed, *({"type": "directory", "path": one, "size": 0, "oid": one} for one in inner)])

        def do_POST(self):
            body = self.body()
            if self.is_cut():
                return None
            if self.path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if not self.headers.get("Authorization"):
                return self.refuse(401, "Unauthorized")
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('type', 'model')}s/{asked.get('organization', 'me')}/{asked['name']}"
                if name not in hub.repositories and (asked.get("private") or asked.get("visibility") == "private"):
                    hub.private.add(name)
                hub.repositories.setdefault(name, {})
                return self.json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
            if self.path.endswith("/info/lfs/objects/batch"):
                asked = json.loads(body)["objects"]
                place = f"http://{self.headers['Host']}/lfs/"
                objects = [
                    one | ({} if one["oid"] in hub.large else {"actions": {"upload": {"href": place + one["oid"]}}})
                    for one in asked
                ]
                return self.json({"transfer": "basic", "objects": objects})
            if "/preupload/" in self.path:
                files = [{"path": one["path"], "shouldIgnore": False} for one in json.loads(body)["files"]]
                for one in files:
                    one["uploadMode"] = "lfs" if one["path"].endswith(LARGE) else "regular"
                return self.json({"files": files})
            if found := re.fullmatch(r"/api/(.+?)/paths-info/([^/]+)", self.path):
                files, asked = hub.at(found[1], found[2]), dict(parse_qsl(body.decode())).get("paths")
                wanted = [asked] if asked else json.loads(body)["paths"]
                return self.json([entry(one, files[one]) for one in wanted if one in files])
            repository = re.match(r"/api/(.+?)/commit/", self.path)[1]
            if repository in hub.locked:
                return self.refuse(403, "Forbidden")
            return self.commit(repository, [json.loads(line) for line in body.splitlines()])

        def do_PUT(self):
            content = self.body()
            if self.is_cut():
                return
            if hashlib.sha256(content).hexdigest() != self.path.rsplit("/", 1)[1]:
                self.refuse(400, "Corrupted")
                return
            hub.large[self.path.rsplit("/", 1)[1]] = content
            self.answer(200, b"", {})

        def commit(self, repository, entries):
            files = dict(hub.repositories[repository])
            for entry_of, value in ((one["key"], one["value"]) for one in entries):
                if entry_of == "header" and value.get("parentCommit") not in (None, hub.commit_of(files)):
                    return self.refuse(412, "Conflict")
                if entry_of == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if entry_of == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
                if entry_of == "deletedFile":
                    files.pop(value["path"])
            hub.repositories[repository] = files
            sha = hub.commit_of(files)
            url = f"http://{self.headers['Host']}/{repository}/commit/{sha}"
            return self.json({"success": True, "commitOid": sha, "commitUrl": url})

        def is_cut(self):
            hub.requests.append(" ".join(filter(None, [self.command, self.path, self.headers.get("Range")])))
            if not hub.cut or hub.cut not in hub.requests[-1]:
                return False
            hub.after -= 1
            if hub.after >= 0:
                return False
            self.close_connection = True
            self.connection.close()
            return True

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

        def refuse(self, status, why):
            self.answer(status, b"", {"X-Error-Code": why, "X-Error-Message": why})

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


def oid(content: bytes) -> str:
    """The name of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, content: bytes) -> dict:
    """A file as a tree lists it."""
    found = {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
    if name.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return found
