"""A server on 127.0.0.1 that speaks as much of the Hugging Face Hub's protocol as pushing and pulling needs.

It proves what the clients send and that what they sent comes back. It does not have the real Hub's rules: any token is
taken, every file that is not small text goes by LFS, a branch is as good as another and there is no history. Dataset
repositories are named `datasets/OWNER/NAME`.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: Files of every repository, by its id and the file's path.
        requests: Method and path of everything that was asked.
        tokens: What came as authorisation.
        failures: Status codes that the next requests whose path matches a pattern are answered with.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.objects = {}
        self.requests = []
        self.tokens = set()
        self.failures = []
        self.num_commits = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub():
    """Run a server for a while."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Be quiet."""

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, method):
        path = self.path.partition("?")[0]
        body = self.read_body()
        self.server.requests.append((method, path))
        self.server.tokens.add(self.headers.get("Authorization"))
        for number, (pattern, status) in enumerate(self.server.failures):
            if re.search(pattern, path):
                del self.server.failures[number]
                return self.send(status, {"error": "injected"})
        for verb, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in verb:
                return handle(self, body, *match.groups())
        return self.send(404, {"error": f"no route for {method} {path}"})

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status, content, headers=()):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def files(self, repository):
        return self.server.repositories.get(repository)

    @property
    def commit(self):
        return f"{COMMIT}{self.server.num_commits % 10}"

    def create(self, body):
        request = json.loads(body)
        kind = "datasets" if request.get("type") == "dataset" else None
        repository = "/".join(filter(None, (kind, request.get("organization") or "me", request["name"])))
        exists = repository in self.server.repositories
        self.server.repositories.setdefault(repository, {})
        answer = {"url": f"{self.server.url}/{repository}", "id": repository, "name": repository}
        self.send(409 if exists else 200, answer)

    def who(self, body):
        self.send(200, {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def validate(self, body):
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, body, repository, revision):
        files = [
            {"path": file["path"], "shouldIgnore": False, "uploadMode": _upload_mode(file["path"])}
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": files})

    def batch(self, body, repository):
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}"}
            actions = {} if wanted["oid"] in self.server.objects else {"actions": {"upload": upload}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        self.send(200, {"transfer": "basic", "objects": objects}, headers)

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.send(200, b"")

    def commit_files(self, body, repository, revision):
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files(repository)[value["path"]] = base64.b64decode(value["content"])
            if entry["key"] == "lfsFile":
                self.files(repository)[value["path"]] = self.server.objects[value["oid"]]
            if entry["key"] == "deletedFile":
                del self.files(repository)[value["path"]]
        self.server.num_commits += 1
        url = f"{self.server.url}/{repository}/commit/{self.commit}"
        self.send(200, {"success": True, "commitUrl": url, "commitOid": self.commit})

    def resolve(self, body, repository, revision, path):
        files = self.files(repository)
        if files is None or path not in files:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            return self.send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": self.commit})
        content = files[path]
        etag = hashlib.sha256(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit})

    def branch(self, body, repository, branch):
        self.send(200, {})

    def tree(self, body, repository, revision):
        files = self.files(repository) or {}
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]
        self.send(200, entries)

    def info(self, body, repository, revision=None):
        files = self.files(repository)
        if files is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": path} for path in files]
        repository = repository.removeprefix("datasets/")
        return self.send(200, {"id": repository, "modelId": repository, "sha": self.commit, "siblings": siblings})


def _upload_mode(path):
    return "regular" if path.endswith((".md", ".json", ".gitattributes", ".yaml")) else "lfs"


_REPOSITORY = r"((?:datasets/)?[^/]+/[^/]+)"
_API = rf"/api/(?:models/)?{_REPOSITORY}"
ROUTES = (
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", "/api/whoami-v2", _Handler.who),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"{_API}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(\w+)", _Handler.put),
    ("POST", rf"{_API}/commit/([^/]+)", _Handler.commit_files),
    ("POST", rf"{_API}/branch/([^/]+)", _Handler.branch),
    ("GET", rf"{_API}/tree/([^/]+)", _Handler.tree),
    ("GET HEAD", rf"/{_REPOSITORY}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"{_API}(?:/revision/([^/]+))?", _Handler.info),
)
