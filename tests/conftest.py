"""Shared fakes: OpenAI-compatible servers on loopback (`faults`), and a small random backbone."""

from importlib import import_module
from pathlib import Path

import pytest
from faults import fake_server  # noqa: F401

from dreamprm_lib.engine.policy.completions import CompletionStore


@pytest.fixture
def docs_module(monkeypatch):
    """Imports a module of `docs/` by its name."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "docs")
    return import_module


@pytest.fixture
def store(tmp_path):
    """A store of completions, `s.sqlite`."""
    with CompletionStore(tmp_path / "s.sqlite") as opened:
        yield opened


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
    backbone.open_model.cache_clear()
    yield
    backbone.open_model.cache_clear()
