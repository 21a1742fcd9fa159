"""A server that speaks the Completions and the Chat API on loopback, and fails on demand.

It replies from a script and keeps a ledger of what it delivered.
"""

import email.utils
import hashlib
import itertools
import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

IN_A_REPLY = ("refusal", "empty", "length")  # faults that are delivered as a reply of their own
NONSENSE = {"not json": b"<html>", "no choices": b'{"id": "x"}'}
PASSING = ("429", "429 wait", "500", "slow", "cut", "half")  # the client asks again by itself


class FaultyServer:
    """Answers what `reply(body)` gives (texts, a status, a payload, or bytes as they are), unless `fault(body, number)`
    names a fault.

    `number` counts the requests with this prompt from 0.  `slow` waits `delay` seconds and then cuts the connection
    (no client should still be there), `cut` closes it before the reply and `half` inside it; `429 wait` has a
    `Retry-After` in seconds, `429 date` as a date and `429 tomorrow` a long one.  `delivered` holds the (prompt, text)
    of every choice that went out whole, `bodies` what was asked, and `keys` the keys that came with it.
    """

    def __init__(self, reply, fault=lambda body, number: None, delay=1.0):
        self.bodies, self.delivered, self.faults, self.keys = [], [], Counter(), set()
        self.asked = Counter()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are used again

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body.get("prompt") or json.dumps(body["messages"], ensure_ascii=False)
                with lock:
                    number = outer.asked[prompt]
                    outer.asked[prompt] += 1
                    outer.bodies.append((self.path, body))
                    outer.keys.add((self.headers["Authorization"] or "").removeprefix("Bearer "))
                    name = fault(body, number)
                    outer.faults[name] += 1
                if name is None or name in IN_A_REPLY:
                    answer = reply(body) if name is None else [name if name == "refusal" else ""] * body.get("n", 1)
                    if isinstance(answer, int):
                        self.refuse(answer)
                    elif isinstance(answer, bytes):
                        self.send(200, answer)
                    else:
                        payload = answer if isinstance(answer, dict) else outer.payload(self.path, answer, name)
                        with lock:
                            outer.delivered += [(prompt, _text(choice)) for choice in payload["choices"]]
                        self.send(200, json.dumps(payload).encode())
                elif name in ("slow", "cut"):
                    time.sleep(delay if name == "slow" else 0)
                    self.hang_up()
                elif name == "half":
                    self.send(200, b'{"id": "x", "choi', length=1000)
                    self.hang_up()
                elif name in NONSENSE:
                    self.send(200, NONSENSE[name])
                else:
                    date = email.utils.formatdate(time.time() + 2, usegmt=True)
                    waits = {"429 wait": "0.02", "429 date": date, "429 tomorrow": "86400"}
                    self.refuse(int(name[:3]), waits.get(name, "0.001"))

            def hang_up(self):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def refuse(self, status, retry_after=None):
                message = f"planted fault for {self.headers['Authorization']}"  # a server that repeats the key
                self.send(status, json.dumps({"error": {"message": message}}).encode(), retry_after)

            def send(self, status, text, retry_after=None, length=None):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(length or len(text)))
                if retry_after:
                    self.send_header("Retry-After", retry_after)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_):  # a client that has gone is no news
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def payload(self, path, texts, fault=None):
        """The body of a whole reply."""
        finish = "length" if fault == "length" else "stop"
        choices = [
            _chat(i, text, finish, fault) if path.endswith("chat/completions") else _raw(i, text, finish)
            for i, text in enumerate(texts)
        ]
        tokens = sum(len(t.split()) for t in texts)
        usage = {"completion_tokens": tokens, "prompt_tokens": 1, "total_tokens": tokens + 1}
        return {"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices, "usage": usage}


def at_random(share, faults):
    """A `fault` that plants one in the given share of requests, the same ones whatever their order."""

    def fault(body, number):
        what = json.dumps([body.get("prompt") or body["messages"], number]).encode()
        draw = int.from_bytes(hashlib.sha256(what).digest()[:8], "big") / 2**64
        return faults[int(draw / share * len(faults))] if draw < share else None

    return fault


def in_order(*faults):
    """A `fault` that plants these one after another, then none."""
    left = itertools.chain(faults, itertools.repeat(None))
    return lambda body, number: next(left)


def _raw(index, text, finish):
    content = [{"token": word, "logprob": -0.25} for word in text.split()]
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": {"content": content}}


def _chat(index, text, finish, fault):
    message = {"role": "assistant", "content": None, "refusal": "I can't."} if fault == "refusal" else {"content": text}
    return {"index": index, "message": message, "finish_reason": finish}


def _text(choice):
    message = choice.get("message")
    return choice["text"] if message is None else message.get("refusal") or message["content"]


@pytest.fixture
def fake_server():
    """Starts servers, and stops them when the test ends."""
    servers = []

    def start(*arguments, **settings):
        servers.append(FaultyServer(*arguments, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
