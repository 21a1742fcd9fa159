"""The head against closed forms, ranking literals, checkpoints that refuse what does not fit, and one pass against many
on a small backbone with random weights."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dreamprm_lib import reward_model as rm
from dreamprm_lib.chain_of_functions import prefixes, split_steps
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError, WeightsError

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "test", (), ())
PROGRAMS = [
    "def main():\n    print(add(read()))\n\n\ndef read():\n    return input().split()\n\n\ndef add(x):\n    return 1\n",
    "print(1)\n",
    "def main(:\n    broken\n\ndef more():\n    pass\n",
    "",
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A Llama of 3 layers with random weights and a byte-level tokenizer, as a folder that transformers opens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("backbone")
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


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path))
    monkeypatch.setattr(rm, "fast_dtype", lambda: torch.float32)
    kept = (rm._cached_features, rm._open_model)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def test_one_pass_equals_one_pass_a_prefix(backbone):
    eye = rm.Backbone(backbone, (0, 1, 3))
    together = eye.features(PROBLEM, PROGRAMS)
    assert [s.shape for s in together] == [(3, 3, 32), (1, 3, 32), (2, 3, 32), (0, 3, 32)]
    for program, states in zip(PROGRAMS[:2], together, strict=False):
        alone = [eye.features(PROBLEM, [prefix])[0][-1] for prefix in prefixes(split_steps(program))]
        np.testing.assert_allclose(states, alone, rtol=1e-4, atol=1e-5)


def test_states_equal_those_of_a_plain_forward_pass(backbone):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(backbone), AutoModel.from_pretrained(backbone)
    text = rm.TEMPLATE.format(statement=PROBLEM.statement) + PROGRAMS[1]
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    states = rm.Backbone(backbone, (1, 2)).features(PROBLEM, PROGRAMS)[1]
    np.testing.assert_allclose(states[0, 0], hidden[1][0, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states[0, 1], hidden[2][0, -1], rtol=1e-4, atol=1e-5)


def test_a_long_statement_loses_its_middle_and_a_long_program_is_refused(backbone, caplog):
    long = Problem("l", "L", "word " * 3000, "easy", "test", (), ())
    states = rm.Backbone(backbone, (1,)).features(long, ["print(1)\n"])
    assert states[0].shape == (1, 1, 32) and "cut in its middle" in caplog.text
    with pytest.raises(InputError, match="leaves"):
        rm.Backbone(backbone, (1,)).features(PROBLEM, ["x = 1\n" * 2000])
    assert rm._cut_middle(list(range(10)), 4 + 60) == list(range(10))
    assert rm._cut_middle(list(range(200)), 64) == [*range(32), *range(168, 200)]


def test_a_layer_that_is_not_there_is_named(backbone):
    with pytest.raises(InputError, match="has 3 layers; layer 4"):
        rm.Backbone(backbone, (4,)).features(PROBLEM, ["print(1)\n"])


def test_features_are_kept_on_disk(backbone, monkeypatch):
    eye = rm.Backbone(backbone, (1,))
    first = eye.features(PROBLEM, PROGRAMS)
    monkeypatch.setattr(rm, "_open_model", lambda *_: pytest.fail("computed again"))
    again = eye.features(PROBLEM, PROGRAMS)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    with pytest.raises(pytest.fail.Exception):
        eye.features(PROBLEM, ["another()\n"])


# ------------------------------------------------------------------------------------------------- the head


def test_the_gradient_vanishes_at_the_fitted_head():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)) * [1, 10, 0.1, 1, 0], rng.random(40)
    w, offset = rng.random(40) * 2, rng.standard_normal(40)
    head = rm.fit_head(x, y, 0.3, weights=w, offset=offset)
    error = 1 / (1 + np.exp(-(head.logits(x) + offset))) - y
    slope = head.standardise(x).T @ (w * error) / 40 + 0.3 * head.weight
    assert np.abs(slope).max() < 1e-6 and abs((w * error).mean()) < 1e-6


def test_without_features_the_head_is_the_mean_label():
    head = rm.fit_head(np.zeros((4, 2)), np.array([0.0, 0.25, 0.5, 0.25]), 1.0)
    assert head.scores(np.zeros((1, 2)))[0] == pytest.approx(0.25) and not head.weight.any()


def test_a_head_needs_a_label_for_each_row():
    with pytest.raises(InputError, match="not 3 for 2"):
        rm.fit_head(np.zeros((2, 1)), np.zeros(3), 1.0)


def test_ranking_literals():
    scores, passed = [0.9, 0.1, 0.5, 0.5, 0.3, 0.2], [1, 0, 1, 0, 1, 1]
    problems = ["a", "a", "b", "b", "c", "c"]
    assert rm.within_problem_ranking(scores, passed, problems) == {"a": 1.0, "b": 0.5}


def test_folds_keep_problems_together():
    problems = [f"p{i % 7}" for i in range(40)]
    fold = rm.folds_by_problem(problems, 3, np.random.default_rng(0))
    assert all(len({f for f, q in zip(fold, problems, strict=True) if q == p}) == 1 for p in problems)
    assert set(fold) == {0, 1, 2}


def test_out_of_fold_scores_never_saw_their_problem():
    """Labels are the problem's own coin, which features name: seen problems would be predicted, unseen ones cannot."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), 4)
    coin = rng.integers(0, 2, 30)[owner].astype(float)
    x = np.eye(30)[owner]
    problems = [str(o) for o in owner]
    fold = rm.folds_by_problem(problems, 5, rng)
    scores = rm.cross_validated_scores(x, coin, problems, 0.01, fold)
    seen = rm.fit_head(x, coin, 0.01).scores(x)
    assert ((seen > 0.5) == coin).all()
    assert np.corrcoef(scores, coin)[0, 1] < 0.2


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(backbone, tmp_path):
    head = rm.Head(np.linspace(-1, 1, 32), 0.25, np.zeros(32), np.ones(32))
    model = rm.RewardModel(rm.Backbone(backbone, (2,)), head, {"ridge": 0.3})
    model.save(tmp_path / "m.safetensors")
    return model, tmp_path / "m.safetensors"


def test_a_checkpoint_scores_as_the_model_that_was_saved(checkpoint):
    model, path = checkpoint
    loaded = rm.RewardModel.load(path)
    scores = loaded.score(PROBLEM, PROGRAMS)
    assert scores == model.score(PROBLEM, PROGRAMS) and loaded.about == {"ridge": 0.3}
    assert [len(s) for s in scores] == [3, 1, 2, 0] and all(0 <= x <= 1 for s in scores for x in s)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"template": "Other {statement}"}, "another template"),
        ({"backbone_digest": "0" * 64}, "other weights"),
        ({"format": "x"}, "not a checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, change, said):
    _, path = checkpoint
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | change)
    with pytest.raises(WeightsError, match=said):
        rm.RewardModel.load(path)


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"\x80\x04" + b, lambda b: b""])
def test_a_damaged_checkpoint_is_refused(checkpoint, damage):
    _, path = checkpoint
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        rm.RewardModel.load(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        rm.RewardModel.load(tmp_path / "gone.safetensors")
