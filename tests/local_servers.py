"""Local servers that stand in for the internet, with the faults of the real one: throttled, cut short, corrupt, stalled.

A `Server` answers GET, HEAD and POST by calling a function, and before that takes the next fault from its list, if there is one
for this path. `hub_of` answers as the Hugging Face hub does, `upstream` passes a request on to another local server (moto's S3).
"""

import hashlib
import http.client
import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What a server says."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


Answerer = Callable[[Request], Answer]


class Server:
    """A web server on a free local port: `with Server(answerer) as server: ... server.url`.

    `faults` are taken one by one, by requests whose path matches `faulty`: an Answer is sent in place of the real one; "cut" sends half
    of the body and hangs up; "corrupt" turns the last byte; "stall" sends half and waits until the server stops; "ok" is no fault.
    """

    def __init__(self, answerer: Answerer, faulty: str = "") -> None:
        self.answerer, self.faulty = answerer, re.compile(faulty)
        self.faults: list[str | Answer] = []
        self.requests: list[Request] = []
        self.stopping, self.stalled = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The class that http.server makes an object of per connection."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, unquote(urlsplit(self.path).path), dict(self.headers), body)
                outer.requests.append(request)
                fault = outer.faults.pop(0) if outer.faults and outer.faulty.search(request.path) else "ok"
                self.send(fault if isinstance(fault, Answer) else outer.answerer(request), fault)

            def send(self, answer: Answer, fault: str | Answer) -> None:
                data = answer.body
                if fault == "corrupt":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if fault in ("cut", "stall") else data)
                if fault == "stall":
                    self.wfile.flush()
                    outer.stalled.set()
                    outer.stopping.wait(60)

            do_GET = do_HEAD = do_POST = respond

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def ranged(data: bytes, request: Request, headers: Mapping[str, str]) -> Answer:
    """A file, or the part of it that a Range header asks for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if match is None:
        return Answer(200, data, {"Accept-Ranges": "bytes", **headers})
    start, end = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
    return Answer(206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}", **headers})


def shelf(files: Mapping[str, bytes]) -> Answerer:
    """A web server with some files by path."""
    return lambda request: ranged(files[request.path], request, {}) if request.path in files else Answer(404)


def upstream(host: str, port: int) -> Answerer:
    """Pass everything on to another local server."""

    def answer(request: Request) -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request(request.method, request.path, request.body, request.headers)
        response = connection.getresponse()
        headers = {name: value for name, value in response.getheaders() if name.lower() != "content-length"}
        return Answer(response.status, response.read(), headers)

    return answer


def hub_of(repo: str, files: Mapping[str, bytes]) -> Answerer:
    """The Hugging Face hub with one data set, whose files lie in its top folder."""
    entries = [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]
    about = {"id": repo, "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}

    def answer(request: Request) -> Answer:
        if match := re.fullmatch(rf"/datasets/{repo}/resolve/\w+/(.+)", request.path):
            if match[1] not in files:
                return Answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            tag = hashlib.sha1(files[match[1]]).hexdigest()
            return ranged(files[match[1]], request, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        if match := re.fullmatch(rf"/api/datasets/{repo}/tree/\w+/?(.*)", request.path):
            return Answer(200, json.dumps([] if match[1] else entries).encode(), {"Content-Type": "application/json"})
        if re.fullmatch(rf"/api/datasets/{repo}(?:/revision/\w+)?", request.path):
            siblings = [{"rfilename": name} for name in files]
            return Answer(
                200, json.dumps({**about, "siblings": siblings}).encode(), {"Content-Type": "application/json"}
            )
        return Answer(404, headers={"X-Error-Code": "RepoNotFound"})

    return answer
