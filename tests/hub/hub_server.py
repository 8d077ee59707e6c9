"""A server on 127.0.0.1 that speaks as much of the Hugging Face Hub's protocol as pushing and pulling needs.

It proves what the clients send, and that what they sent comes back: creating, branches, preupload, LFS, commits,
listing, resolving, ranges, private and gated repositories, tokens that may read or write. Failures can be ordered. It
does not have the real Hub's rules and limits: every file that is not small text goes by LFS in one part, never by Xet;
there are no redirects, and a card is accepted if its metadata has the right form.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml

SIGNATURE = "X-Amz-Signature=c0ffee"
"""What makes the address of an upload secret."""
DROP = "drop"
"""A failure: the connection ends without an answer."""
HALF = "half"
"""A failure: the connection ends in the middle of a file."""


@dataclass
class Repository:
    """A repository of a model, or of a dataset, which is named `datasets/OWNER/NAME`.

    Attributes:
        is_private: Only those with a token see it.
        is_gated: Those with a token may not read it either.
        branches: The newest commit of every branch.
        commits: Files of every commit by their paths.
    """

    is_private: bool = False
    is_gated: bool = False
    branches: dict = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict = field(default_factory=lambda: {"0" * 40: {}})

    @property
    def files(self):
        return self.at("main")

    def at(self, revision):
        return self.commits.get(self.branches.get(revision, revision))

    def commit(self, branch, files):
        sha = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: By their ids.
        accounts: What tokens may do, "read" or "write"; None takes any token for one that may write.
        requests: Method and path of everything that was asked.
        tokens: What came as authorisation.
        failures: What the next requests whose method and path match a pattern are answered with: a status, DROP,
            HALF, or a status and headers. Like a careless server's, the answer repeats the authorisation.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {}
        self.accounts = None
        self.objects = {}
        self.requests = []
        self.tokens = set()
        self.failures = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, pattern):
        """Count the requests whose method and path match."""
        return sum(bool(re.search(pattern, " ".join(request))) for request in self.requests)


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
    is_cut = False

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

    def do_DELETE(self):
        self.answer("DELETE")

    def answer(self, method):
        path = unquote(self.path.partition("?")[0])
        body = self.read_body()
        self.server.requests.append((method, path))
        self.server.tokens.add(self.headers.get("Authorization"))
        failure = self.next_failure(f"{method} {path}")
        if failure == DROP:
            self.close_connection = True
            return None
        if isinstance(failure, tuple | int):
            status, headers = failure if isinstance(failure, tuple) else (failure, {})
            asked_with = f"Authorization: {self.headers.get('Authorization')}"
            return self.send(status, {"error": f"injected; you sent {asked_with}"}, headers)
        self.is_cut = failure == HALF
        for verb, needed, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in verb:
                return self.refusal(needed, match.groups()) or handle(self, body, *match.groups())
        return self.send(404, {"error": f"no route for {method} {path}"})

    def next_failure(self, request):
        for number, (pattern, failure) in enumerate(self.server.failures):
            if re.search(pattern, request):
                del self.server.failures[number]
                return failure
        return None

    def refusal(self, needed, names):
        """Answer what the token does not allow; None where it does."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        accounts = self.server.accounts
        role = "write" if accounts is None and token else (accounts or {}).get(token)
        if needed is None:
            return None
        if token and role is None:
            return self.refuse(401, {}, "Invalid username or password.")
        if needed == "write" and role != "write":
            return self.refuse(403 if role else 401, {}, f"{token} has no write access")
        repository = self.repository(names[0]) if names else None
        if repository is not None and repository.is_private and role is None:
            return self.refuse(401, {"X-Error-Code": "RepoNotFound"}, "Repository not found")
        if repository is not None and repository.is_gated and needed == "read":
            return self.refuse(403, {"X-Error-Code": "GatedRepo"}, "Access is restricted")
        return None

    def refuse(self, status, headers, message):
        self.send(status, {"error": message}, headers | {"X-Error-Message": message})
        return True

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
            self.wfile.write(payload[: len(payload) // 2] if self.is_cut else payload)
            self.close_connection |= self.is_cut

    def repository(self, name):
        return self.server.repositories.get(name)

    def create(self, body):
        request = json.loads(body)
        kind = "datasets" if request.get("type") == "dataset" else None
        name = "/".join(filter(None, (kind, request.get("organization") or "me", request["name"])))
        exists = name in self.server.repositories
        is_private = request.get("private") or request.get("visibility") == "private"
        self.server.repositories.setdefault(name, Repository(is_private=bool(is_private)))
        answer = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
        self.send(409 if exists else 200, answer)

    def branch(self, body, name, branch):
        repository = self.repository(name)
        exists = branch in repository.branches
        repository.branches.setdefault(branch, repository.branches["main"])
        self.send(409 if exists else 200, {})

    def who(self, body):
        self.send(200, {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def validate(self, body):
        mistakes = _mistakes_of_card(json.loads(body)["content"])
        self.send(400 if mistakes else 200, {"errors": [{"message": text} for text in mistakes], "warnings": []})

    def preupload(self, body, repository, revision):
        files = [
            {"path": file["path"], "shouldIgnore": False, "uploadMode": _upload_mode(file["path"])}
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": files})

    def batch(self, body, repository):
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}?{SIGNATURE}"}
            actions = {} if wanted["oid"] in self.server.objects else {"actions": {"upload": upload}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        self.send(200, {"transfer": "basic", "objects": objects}, headers)

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.send(200, b"")

    def commit_files(self, body, name, revision):
        repository = self.repository(name)
        files = dict(repository.at(revision))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            if entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(revision, files)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self.send(200, {"success": True, "commitUrl": url, "commitOid": sha})

    def resolve(self, body, name, revision, path):
        repository = self.repository(name)
        if repository is None or repository.at(revision) is None:
            return self.not_found(repository)
        sha = repository.branches.get(revision, revision)
        content = repository.at(revision).get(path)
        if content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(206 if start else 200, content[start:], headers)

    def info(self, body, name, revision=None):
        repository = self.repository(name)
        revision = revision or "main"
        if repository is None or repository.at(revision) is None:
            return self.not_found(repository)
        siblings = [{"rfilename": path} for path in repository.at(revision)]
        sha = repository.branches.get(revision, revision)
        name = name.removeprefix("datasets/")
        return self.send(200, {"id": name, "modelId": name, "sha": sha, "siblings": siblings})

    def tree(self, body, name, revision):
        repository = self.repository(name)
        if repository is None or repository.at(revision) is None:
            return self.not_found(repository)
        return self.send(200, [_entry(path, content) for path, content in repository.at(revision).items()])

    def not_found(self, repository):
        code = "RepoNotFound" if repository is None else "RevisionNotFound"
        return self.send(404, b"", {"X-Error-Code": code})


def _entry(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if _upload_mode(path) == "lfs":
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


def _mistakes_of_card(content):
    """Say what is wrong with the metadata of a card, in as far as it must have a form."""
    block = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
    data = yaml.safe_load(block[1]) if block else {}
    mistakes = []
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "none")):
        mistakes.append('"base_model" must be a model id')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        mistakes.append('"tags" must be strings')
    for model in data.get("model-index", []):
        for result in model["results"]:
            is_whole = {"type"} <= set(result["task"]) and {"type", "name"} <= set(result["dataset"])
            if not is_whole or not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                mistakes.append('"model-index" lacks a type, name or value')
    return mistakes


def _upload_mode(path):
    return "regular" if path.endswith((".md", ".json", ".gitattributes", ".yaml")) else "lfs"


_REPOSITORY = r"((?:datasets/)?[^/]+/[^/]+)"
_API = rf"/api/(?:models/)?{_REPOSITORY}"
ROUTES = (
    ("POST", "write", "/api/repos/create", _Handler.create),
    ("GET", "read", "/api/whoami-v2", _Handler.who),
    ("POST", None, "/api/validate-yaml", _Handler.validate),
    ("POST", "write", rf"{_API}/branch/(.+)", _Handler.branch),
    ("POST", "write", rf"{_API}/preupload/(.+)", _Handler.preupload),
    ("POST", "write", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", None, r"/lfs/(\w+)", _Handler.put),  # the signature in the address is the permission
    ("POST", "write", rf"{_API}/commit/(.+)", _Handler.commit_files),
    ("GET HEAD", "read", rf"/{_REPOSITORY}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", "read", rf"{_API}/tree/(.+)", _Handler.tree),
    ("GET", "read", rf"{_API}/revision/(.+)", _Handler.info),
    ("GET", "read", rf"{_API}", _Handler.info),
)
"""Method, what a token must allow, path and answer."""
