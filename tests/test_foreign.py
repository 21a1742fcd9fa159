"""Reward models of other projects: tiny ones of each kind score as a direct computation says."""

import re
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import transformers

from dreamprm_lib.__main__ import main
from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine import foreign
from dreamprm_lib.engine.backbone import Template
from dreamprm_lib.engine.foreign import QUESTION, foreign_model
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError, WeightsError
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.study.rows import Program, write_rows

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("add", "Add", "Add two numbers.", "easy", "test", (), ())
BEFORE = Template().root(PROBLEM)
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
CHAT = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    """Writes a model of two layers with random weights; its folder, and what gives its logits for a text."""

    def write(kind, labels=2, chat=None):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_backbone)
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(tmp_path / "tiny-model")
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=1024, num_labels=labels, initializer_range=0.3,
        )  # fmt: skip
        model = getattr(transformers, f"LlamaFor{kind}")(config).eval().requires_grad_(False)
        model.save_pretrained(tmp_path / "tiny-model")
        return str(tmp_path / "tiny-model"), lambda text: model(torch.tensor([tokenizer(text).input_ids])).logits[0]

    return write


def assert_scores(model, programs, direct):
    """The scores of all steps are those that `direct` computes from their texts."""
    scores = RewardModel.load(model).score(PROBLEM, programs)
    assert [len(s) for s in scores] == [3, 1, 2, 0] and len({x for s in scores for x in s}) == 6
    for found, code in zip(scores, programs, strict=True):
        assert found == pytest.approx(direct([step.text for step in split_steps(code)]), abs=1e-5)


@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_classifier_of_sequences_judges_each_prefix_as_an_answer(saved, ragged_programs, chat):
    folder, logits = saved("SequenceClassification", labels=1, chat=chat)
    form = "<user>{}<assistant>{}" if chat else "{}{}"
    assert_scores(
        folder,
        ragged_programs,
        lambda steps: [torch.sigmoid(logits(form.format(BEFORE, prefix))).item() for prefix in accumulate(steps)],
    )


def test_a_classifier_of_tokens_is_read_behind_each_step(saved, ragged_programs):
    folder, logits = saved("TokenClassification")

    def direct(steps):
        texts = list(accumulate((step + "\n\n" for step in steps), initial=BEFORE))
        ends = [len(text.encode()) - 1 for text in texts[1:]]  # the tokenizer's tokens are bytes
        return logits(texts[-1]).softmax(-1)[ends, 1].tolist()

    assert_scores(f"{folder}?after=%0A%0A", ragged_programs, direct)
    long = Problem("long", "Long", "a" * 5000, "easy", "test", (), ())  # it loses its middle
    assert len(RewardModel.load(folder).score(long, ["x = 1\n"])[0]) == 1


@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_language_model_answers_yes_or_no_behind_each_prefix(saved, ragged_programs, chat):
    folder, logits = saved("CausalLM", chat=chat)
    yes, no = (transformers.AutoTokenizer.from_pretrained(folder)(word).input_ids[0] for word in "+-")
    form = "<user>{}<assistant>" if chat else "{}"

    def direct(steps):
        rows = [logits(form.format(BEFORE + prefix + QUESTION))[-1] for prefix in accumulate(steps)]
        return [row[[yes, no]].softmax(0)[0].item() for row in rows]

    assert_scores(f"{folder}?yes=+&no=-", ragged_programs, direct)


def test_what_a_text_shares_with_the_one_before_it_is_read_once(saved, monkeypatch):
    model = foreign_model(f"{saved('CausalLM')[0]}?yes=+&no=-")
    network, lengths = foreign._opened(model.name, "CausalLM", model.dtype), []
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda **told: (lengths.append(told["input_ids"].shape[1]), forward(**told))[1]
    )
    texts = [list(b"one two three"), list(b"one two four"), list(b"one two fourteen"), list(b"one"), list(b"one")]
    found = [model.output(text)[-1] for text in texts]
    alone = [forward(input_ids=torch.tensor([text])).logits[0, -1] for text in texts]
    assert lengths == [13, 12 - 8, 16 - 12, 3 - 2, 3 - 2]  # the last token is always read: it says what comes next
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_language_model_reads_backwards_how_likely_the_problem_is_behind_each_prefix(saved, ragged_programs):
    folder, logits = saved("CausalLM")

    def direct(steps):
        means = []
        for prefix in accumulate(steps):
            text = prefix + "\n\nProblem:\n" + PROBLEM.statement
            chances = logits(text).log_softmax(-1)  # the tokenizer's tokens are bytes
            tokens = transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
            ends = range(len(text.encode()) - len(PROBLEM.statement), len(text.encode()))
            means.append(torch.stack([chances[at - 1, tokens[at]] for at in ends]).mean())
        return [torch.sigmoid(mean).item() for mean in means]

    assert_scores(f"{folder}?backwards=1", ragged_programs, direct)


def test_what_is_no_reward_model_is_refused(saved, tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint of this suite, and no model that `transformers` opens"):
        RewardModel.load(tmp_path / "nothing-here")
    folder, _ = saved("SequenceClassification", labels=3)
    with pytest.raises(WeightsError, match=r"LlamaForSequenceClassification with 3 labels.*with 1 label,"):
        RewardModel.load(folder)
    with pytest.raises(WeightsError, match="alone can read backwards"):
        RewardModel.load(f"{folder}?backwards=1")
    folder, _ = saved("CausalLM")
    with pytest.raises(InputError, match="there is no option `yess`"):
        RewardModel.load(f"{folder}?yess=+")
    with pytest.raises(InputError, match="'Yes' and 'No' are 3 and 2 tokens"):
        RewardModel.load(folder).score(PROBLEM, ["x = 1\n"])


def test_the_recipe_puts_it_into_the_table(saved, tmp_path, capsys):
    page = (Path(__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")
    command = re.search(r"^python -m dreamprm_lib (evaluate.*)$", page, re.MULTILINE)[1].split()
    folder, _ = saved("SequenceClassification", labels=1)
    problem, codes = load_problems("starter")[0], {"print(1)\n": True, "print(2)\n": False}
    rows = [Program(problem.id, k, code, [code], ok, "x", 1) for k, (code, ok) in enumerate(codes.items())]
    write_rows(tmp_path / "candidates.jsonl", rows)
    assert main([command[0], str(tmp_path / "candidates.jsonl"), *command[2:-1], folder]) == 0
    (first,), (second,) = RewardModel.load(folder).score(problem, list(codes))
    line = re.search(r"^prm +.*", capsys.readouterr().out, re.MULTILINE)[0]
    assert ("100.0" in line) == (first > second)
