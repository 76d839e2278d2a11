"""A server that misbehaves on purpose, and a real server of real small models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hf_distill import EndpointTeacher
from hf_distill.testing import tiny_model, tiny_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def reply(text="fine", *, finish_reason="stop", usage=(3, 4), **message):
    """The body of a good answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    content = {"object": "chat.completion", "choices": [choice]}
    if usage is not None:
        content["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    return json.dumps(content).encode()


class Handler(BaseHTTPRequestHandler):
    """Does what the script says next for the prompt, and answers well where the script is at its end."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        with self.server.lock:
            self.server.asked[prompt] += 1
            self.server.times.append(time.monotonic())
            self.server.requests.append((self.path, dict(self.headers), body))
            steps = self.server.script.get(prompt, self.server.always)
            step = steps.popleft() if steps else None
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            if step is None:
                self.send(200, reply(f"answer to {prompt}"))
            else:
                step(self)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def send(self, status, body, **headers):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.asked = Counter()
        self.requests = []
        self.times = []
        self.busy = self.most_busy = 0
        self.always = deque()
        self.script = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what the tests are about


class Steps:
    """What a server may do to a request."""

    @staticmethod
    def status(code, body=b'{"error": {"message": "not today"}}', **headers):
        return lambda handler: handler.send(code, body, **headers)

    @staticmethod
    def body(content):
        return lambda handler: handler.send(200, content)

    @staticmethod
    def drop(handler):
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def once_per_connection(handler):
        """As servers do whose patience ends just as the next request is sent; a handler serves one connection."""
        if hasattr(handler, "has_answered"):
            Steps.drop(handler)
        else:
            handler.has_answered = True
            handler.send(200, reply())

    @staticmethod
    def drop_in_the_middle(handler):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(reply()[:20])
        handler.wfile.flush()
        Steps.drop(handler)

    @staticmethod
    def silence(handler):
        handler.server.closing.wait(20)
        handler.close_connection = True

    @staticmethod
    def drip(handler):
        """One byte after another, always before a read could time out."""
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        while not handler.server.closing.wait(0.02):
            handler.wfile.write(b" ")

    @staticmethod
    def endless(handler):
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        while not handler.server.closing.is_set():
            handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    @staticmethod
    def slow(seconds):
        def step(handler):
            handler.server.closing.wait(seconds)
            handler.send(200, reply())

        return step


@pytest.fixture
def steps():
    return Steps


@pytest.fixture
def good_reply():
    return reply


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def make_teacher(server):
    """A teacher of the misbehaving server, which waits next to nothing between attempts."""

    def make(**options):
        quick = {"first_wait": 0.01, "longest_wait": 2.0, "attempts": 3, "read_timeout": 5.0, "answer_timeout": 5.0}
        return EndpointTeacher(server.url, "m", **{**quick, **options})

    return make


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """The folder of a tiny language model with a chat template."""
    folder = tmp_path_factory.mktemp("chat_model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    tiny_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_server(tmp_path_factory):
    """The address of a `transformers serve`, a process of its own that loads the models that requests name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                log.seek(0)
                assert process.poll() is None, log.read()
                assert time.monotonic() < deadline, log.read()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
        log.close()
