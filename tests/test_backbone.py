"""One pass over the tree against one pass a prefix, on real programs, for templates with and without text behind."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine import backbone as bb
from dreamprm_lib.engine.backbone import Backbone, Template, Tree
from dreamprm_lib.engine.policy.completions import load_recording
from dreamprm_lib.engine.policy.endpoint import EMBEDDED
from dreamprm_lib.engine.policy.policy import recording_path
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("p", "P", "Add the two numbers of the line.", "easy", "test", (), ())
TEMPLATES = [Template(), Template("<title>{title}</title>\n<problem>{content}</problem>\n<code>", "</code><score>")]


def steps_of(programs):
    return [[step.text for step in split_steps(code)] for code in programs]


def recorded_programs(count):
    """Replies of the recorded policy, as they came."""
    rows = load_recording(recording_path(EMBEDDED)).rows.values()
    return [c.text for _, completions in rows for c in completions.values()][:count]


def one_pass_a_prefix(eye, problem, steps):
    """The plain way: each prefix with what stands around it in a pass of its own, of the tree's very tokens."""
    tokenizer, model = bb.open_model(eye.name, eye.dtype, max(eye.layers))
    tree = Tree.of(tokenizer, eye.template.root(problem), eye.template.after, [steps])
    rows = []
    for k in range(len(steps)):
        ids = [*tree.root, *chain(*tree.branches[0][: k + 1]), *tree.leaf]
        with torch.inference_mode():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        own = slice(len(tree.root), len(ids) - len(tree.leaf))
        read = [hidden[layer][0].float().numpy() for layer in eye.layers]
        step = len(tree.branches[0][k])
        rows.append([[h[-1], h[own][-step:].mean(axis=0), h[own].mean(axis=0)] for h in read])
    return np.array(rows)


@pytest.mark.parametrize("template", TEMPLATES, ids=["open", "closed"])
@pytest.mark.parametrize("pack_tokens", [60, 1024])
def test_one_pass_equals_one_pass_a_prefix(tiny_backbone, template, pack_tokens, monkeypatch, ragged_programs):
    """Ragged lengths, one-step programs, programs that don't parse, an empty one; packed alone and together."""
    monkeypatch.setattr(bb, "PACK_TOKENS", pack_tokens)
    steps = steps_of([*ragged_programs, *recorded_programs(12)])
    eye = Backbone(tiny_backbone, (0, 1, 3), template)
    together = eye.features(PROBLEM, steps)
    assert [s.shape for s in together[:4]] == [(n, 3, 3, 32) for n in (3, 1, 2, 0)]
    for mine, states in zip(steps, together, strict=True):
        if mine:
            np.testing.assert_allclose(states, one_pass_a_prefix(eye, PROBLEM, mine), rtol=1e-4, atol=1e-5)


def test_states_equal_those_of_a_plain_forward_pass(tiny_backbone, ragged_programs):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_backbone), AutoModel.from_pretrained(tiny_backbone)
    text = Template().root(PROBLEM) + ragged_programs[1]
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    (states,) = Backbone(tiny_backbone, (2,)).features(PROBLEM, [[ragged_programs[1]]])
    np.testing.assert_allclose(states[0, 0, 0], hidden[2][0, -1], rtol=1e-4, atol=1e-5)


def test_the_mask_of_a_small_tree():
    """Two candidates of two steps with a leaf of one token: rows are tokens, columns whom they see."""
    tree = Tree([7, 7], [[[1], [2]], [[3]]], [9])
    (pack,) = tree.packs(1024)
    assert pack.ids[0].tolist() == [1, 2, 9, 9, 3, 9] and pack.depth[0].tolist() == [2, 3, 3, 4, 2, 3]
    assert pack.mask[0, 0].int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0, 1, 1],
    ]
    assert [e.tolist() for e in pack.ends] == [[2, 3], [5]]


def test_each_token_is_read_once_and_a_pack_that_carries_the_root_reads_the_same(tiny_backbone, ragged_programs):
    tokenizer, model = bb.open_model(tiny_backbone, "float32", 3)
    tree = Tree.of(tokenizer, TEMPLATES[1].root(PROBLEM), TEMPLATES[1].after, steps_of(ragged_programs))
    read = []
    hook = model.layers[0].register_forward_hook(
        lambda _m, _i, out: read.append((out[0] if isinstance(out, tuple) else out).shape[-2])
    )
    with torch.inference_mode():
        passes = list(tree.passes(model, (3,)))
        hook.remove()
        for (shared, hidden), own in zip(passes, tree.packs(bb.PACK_TOKENS, carry_root=True), strict=True):
            alone = model(**own.inputs("cpu"), use_cache=False).last_hidden_state[0]
            for a, b in zip(shared.ends, own.ends, strict=True):
                np.testing.assert_allclose(hidden[a, 0], alone[b], rtol=1e-4, atol=1e-5)
    assert sum(read) == tree.tokens
    for most in (1, 5, 6, 100):  # branches of 5 and 2 tokens, leaves among them, and one without a step
        owners = [pack.owners for pack in Tree([7], [[[1], [2, 2]], [], [[3]]], [9]).packs(most)]
        assert owners == ([[0, 2]] if most >= 7 else [[0], [2]])
    small = Tree([7, 7], [[[1], [2, 2]], [], [[3]]], [9])
    assert small.tokens == 2 + (1 + 1) + (2 + 1) + (1 + 1)
    assert small.tokens_by_prefix == (2 + 1 + 1) + (2 + 3 + 1) + (2 + 1 + 1)


def test_a_long_statement_loses_its_middle_and_a_long_program_is_refused(tiny_backbone, caplog):
    (states,) = Backbone(tiny_backbone, (1,)).features(replace(PROBLEM, statement="word " * 3000), [["print(1)\n"]])
    assert states.shape == (1, 1, 3, 32) and "cut in its middle" in caplog.text
    with pytest.raises(InputError, match="leaves"):
        Backbone(tiny_backbone, (1,)).features(PROBLEM, [["x = 1\n" * 2000]])
    assert bb.cut_middle(list(range(10)), 4 + 60) == list(range(10))
    assert bb.cut_middle(list(range(200)), 64) == [*range(32), *range(168, 200)]


def test_a_layer_or_precision_that_is_not_there_is_named(tiny_backbone):
    with pytest.raises(InputError, match="no precision 'int3'"):
        Backbone(tiny_backbone, (1,), dtype="int3")
    with pytest.raises(InputError, match="has 3 layers; layer 4"):
        Backbone(tiny_backbone, (4,)).features(PROBLEM, [["print(1)\n"]])


def test_features_are_kept_on_disk_by_content(tiny_backbone, monkeypatch, ragged_programs):
    eye, steps = Backbone(tiny_backbone, (1,)), steps_of(ragged_programs)
    first = eye.features(PROBLEM, steps)
    monkeypatch.setattr(Tree, "passes", lambda *_: pytest.fail("computed again"))
    again = eye.features(PROBLEM, steps)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (Backbone(tiny_backbone, (2,)), Backbone(tiny_backbone, (1,), TEMPLATES[1])):
        with pytest.raises(pytest.fail.Exception):
            other.features(PROBLEM, steps)


def test_a_pool_that_has_grown_is_read_as_far_as_it_is_new(tiny_backbone, monkeypatch, ragged_programs):
    eye, steps = Backbone(tiny_backbone, (1,)), steps_of(ragged_programs)[:4]
    monkeypatch.setattr(bb, "GROUP", 2)
    eye.features(PROBLEM, steps[:3])
    read, tree_of = [], Tree.of
    monkeypatch.setattr(Tree, "of", lambda *given: read.append(given[-1]) or tree_of(*given))
    grown = eye.features(PROBLEM, steps)
    assert read == [steps[2:]]
    monkeypatch.setattr(bb, "GROUP", 8)
    for apart, together in zip(grown, eye.features(PROBLEM, steps), strict=True):
        assert apart == pytest.approx(together, abs=1e-5)


def test_in_bfloat16_they_are_equal_within_its_rounding(tiny_backbone, monkeypatch):
    monkeypatch.setattr(bb, "fast_dtype", lambda: "bfloat16")
    steps = steps_of(recorded_programs(6))
    eye = Backbone(tiny_backbone, (3,), TEMPLATES[1])
    for mine, states in zip(steps, eye.features(PROBLEM, steps), strict=True):
        alone = one_pass_a_prefix(eye, PROBLEM, mine)
        assert np.abs(states - alone).max() < 2**-6 * np.abs(alone).max()
