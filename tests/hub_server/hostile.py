"""A proxy in front of the foreign server that alters, cuts, hides and moves what passes through.

The owner in an address says what happens to it. `stranger/church-unet` passes as it is,
`gated-artifact/church-unet` is the same repository with the fault of that case. So one client
process meets every fault, each under an id of its own with a part of the cache of its own, and nothing has to
be switched between two requests.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

from tests.hub_server.cases import ESCAPE, TRUE_OWNER, WHERE, Case

ADDRESS = re.compile(
    r"(?P<api>/api/models)?/(?P<owner>[^/]+)/(?P<name>[^/?]+)(?P<verb>/resolve|/revision|/tree)?(?P<rest>/.*|\?.*|)"
)
HOP_HEADERS = ("connection", "content-length", "transfer-encoding", "date", "server")


@dataclass
class Answer:
    """What the foreign server said, or what is sent in its place.

    Attributes:
        length: Value of the header `Content-Length`; the body's own where it is None.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    length: int | None = None


@dataclass
class Log:
    """What passed through.

    Attributes:
        injected: How often the fault of each case was put in.
        requests: Method and path of every request.
    """

    injected: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, case: Case) -> bool:
        """Count a fault, unless the case has had all of its faults."""
        with self.lock:
            if case.times is not None and self.injected[case.name] >= case.times:
                return False
            self.injected[case.name] += 1
            return True


def _flipped(answer: Answer, case: Case) -> None:
    place = answer.body.find(case.word) if case.word else int(len(answer.body) * WHERE)
    answer.body = answer.body[:place] + bytes([answer.body[place] ^ 1]) + answer.body[place + 1 :]


def _zeroed(answer: Answer, case: Case) -> None:
    keep = int(len(answer.body) * WHERE)
    answer.body = answer.body[:keep] + bytes(len(answer.body) - keep)


def _cut(answer: Answer, case: Case) -> None:
    """The connection ends in the middle of what was announced."""
    answer.length = len(answer.body)
    answer.body = answer.body[: int(len(answer.body) * WHERE)]


def _shortened(answer: Answer, case: Case) -> None:
    """A whole answer, but of half a file."""
    answer.body = answer.body[: int(len(answer.body) * WHERE)]


def _lied_about(answer: Answer, case: Case) -> None:
    """The length that is told beforehand is wrong."""
    answer.length = int(answer.headers["content-length"]) + 64


def _absent(answer: Answer, case: Case) -> None:
    answer.status, answer.body = 404, b""
    answer.headers = {"x-error-code": "EntryNotFound", "x-error-message": "Entry not found"}


def _gated(answer: Answer, case: Case) -> None:
    answer.status, answer.body = 403, b""
    answer.headers = {
        "x-error-code": "GatedRepo",
        "x-error-message": f"Access to model {case.name} is restricted",
    }


def _broken(answer: Answer, case: Case) -> None:
    answer.status, answer.headers, answer.body = 500, {}, b"internal error"


ON_BODY: Mapping[str, Callable[[Answer, Case], None]] = {
    "flip": _flipped,
    "zeros": _zeroed,
    "cut": _cut,
    "short": _shortened,
    "gone midway": _absent,
}


def _escaping(answer: Answer, case: Case) -> None:
    """The hash of the file leads out of the folder of hashes."""
    answer.headers["etag"] = f'"{ESCAPE}"'


ON_HEAD: Mapping[str, Callable[[Answer, Case], None]] = {"wrong length": _lied_about}
ON_FILE: Mapping[str, Callable[[Answer, Case], None]] = {"missing": _absent}
ON_ALL: Mapping[str, Callable[[Answer, Case], None]] = {
    "gated": _gated,
    "broken": _broken,
    "escape etag": _escaping,
}


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    endpoint: str
    log: Log


@contextmanager
def hostile_proxy(upstream: str, cases: Mapping[str, Case]) -> Iterator[Proxy]:
    """A proxy on loopback in front of `upstream`, which treats each owner as its case says."""
    log = Log()

    class Handler(_Handler):
        """Requests of this proxy."""

    Handler.upstream, Handler.cases, Handler.log = urlsplit(upstream).netloc, cases, log
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Proxy(f"http://127.0.0.1:{server.server_address[1]}", log)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    upstream: str
    cases: Mapping[str, Case]
    log: Log
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Any request is asked upstream, and its answer goes through the fault of its case."""
        with self.log.lock:
            self.log.requests.append(f"{self.command} {self.path}")
        found = ADDRESS.fullmatch(self.path)
        case = self.cases.get(found["owner"]) if found else None
        answer = self._ask(self.path if case is None or found is None else self._true_path(found, case))
        if case is not None and found is not None and answer.status == 200:
            self._harm(answer, case, found)
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815 - the parent finds its methods by these names
    do_POST = do_GET  # noqa: N815

    def _true_path(self, found: re.Match[str], case: Case) -> str:
        rest = found["rest"]
        revision = re.fullmatch(r"/main(?P<below>/.*)?", rest) if found["verb"] else None
        if case.fault == "moving" and revision is not None and self.log.inject(case):
            rest = f"/v1{revision['below'] or ''}"
        if case.fault == "escape revision" and quote(ESCAPE, safe="") in rest:
            self.log.inject(case)
            rest = rest.replace(quote(ESCAPE, safe=""), "main")
        return f"{found['api'] or ''}/{TRUE_OWNER}/{found['name']}{found['verb'] or ''}{rest}"

    def _harm(self, answer: Answer, case: Case, found: re.Match[str]) -> None:
        file = found["rest"].partition("/")[2].partition("/")[2]
        concerned = found["verb"] == "/resolve" and file == case.file
        faults = [ON_ALL.get(case.fault)]
        if concerned:
            faults.append(ON_FILE.get(case.fault))
            faults.append((ON_BODY if self.command == "GET" else ON_HEAD).get(case.fault))
        for fault in faults:
            if fault is not None and self.log.inject(case):
                fault(answer, case)

    def _ask(self, path: str) -> Answer:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
        }
        connection = HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(self.command, path, body=body or None, headers=headers)
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())
        finally:
            connection.close()

    def _send(self, answer: Answer) -> None:
        length = answer.length
        if length is None:
            length = (
                int(answer.headers.get("content-length", 0)) if self.command == "HEAD" else len(answer.body)
            )
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name not in HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name that the parent gives
        """Say nothing; `Log` has it."""
