"""Shared fakes: a policy that replies from a script, and an OpenAI-compatible server on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FakeServer:
    """Answers the Completions and Chat API from `reply(body) -> list of texts`, and keeps what it was asked."""

    def __init__(self, reply):
        self.bodies = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append((self.path, body))
                answer = reply(body)
                status = 200
                if isinstance(answer, int):
                    status, payload = answer, {"error": {"message": "planted fault"}}
                elif self.path.endswith("chat/completions"):
                    payload = {"choices": [_chat(i, t) for i, t in enumerate(answer)], "usage": _usage(answer)}
                else:
                    payload = {"choices": [_raw(i, t) for i, t in enumerate(answer)], "usage": _usage(answer)}
                text = json.dumps({"id": "x", "object": "x", "created": 0, "model": "m", **payload}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def _raw(index, text):
    content = [{"token": word, "logprob": -0.25} for word in text.split()]
    return {"index": index, "text": text, "finish_reason": "stop", "logprobs": {"content": content}}


def _chat(index, text):
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


def _usage(texts):
    tokens = sum(len(t.split()) for t in texts)
    return {"completion_tokens": tokens, "prompt_tokens": 1, "total_tokens": tokens + 1}


@pytest.fixture
def fake_server():
    servers = []

    def start(reply):
        servers.append(FakeServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
