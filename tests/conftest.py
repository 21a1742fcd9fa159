"""Shared fakes: an OpenAI-compatible server on loopback that replies from a script, and a small random backbone."""

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


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    return random_backbone(tmp_path_factory.mktemp("backbone"))


def random_backbone(folder):
    """A Llama of 3 layers with random weights and a byte-level tokenizer, as a folder that transformers opens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def ragged_programs():
    """Programs of three, one, two (it does not parse) and no steps."""
    return [
        "def main():\n    print(add(read()))\n\n\n"
        "def read():\n    return input().split()\n\n\ndef add(x):\n    return 1\n",
        "print(1)\n",
        "def main(:\n    broken\n\ndef more():\n    pass\n",
        "",
    ]


@pytest.fixture
def float32_backbones(tmp_path, monkeypatch):
    """Backbones computed in float32, with a cache of their own."""

    from dreamprm_lib.engine import backbone

    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    monkeypatch.setattr(backbone, "fast_dtype", lambda: "float32")
    kept = (backbone._cached_features, backbone.open_model)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()
