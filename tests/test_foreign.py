"""Reward models of other projects: tiny ones of each kind score as a direct computation says."""

import re
from itertools import accumulate

import pytest
import torch
import transformers

from dreamprm_lib.__main__ import main
from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine.backbone import Template
from dreamprm_lib.engine.files import as_json_lines
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError, WeightsError
from dreamprm_lib.reward_model import RewardModel

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("add", "Add", "Add two numbers.", "easy", "test", (), ())
BEFORE = Template().root(PROBLEM)
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTION = (
    "\n\nIs this beginning of a program right, so that it can be completed to a program that solves the problem?\n"
    "Answer Yes or No: "
)


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    """Writes a model of two layers with random weights, and gives its folder, tokenizer and model."""

    def write(kind, labels=2, chat=None):
        folder = tmp_path / "tiny-model"
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_backbone)
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=1024, num_labels=labels,
        )  # fmt: skip
        model = getattr(transformers, f"LlamaFor{kind}")(config).eval()
        for parameter in model.parameters():  # so that scores differ visibly
            parameter.data = 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return str(folder), tokenizer, model

    return write


def logits(tokenizer, model, text):
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])).logits[0]


def prefixes(code):
    return list(accumulate(step.text for step in split_steps(code)))


def assert_scores(folder, programs, direct):
    """The scores of all steps are those that `direct` computes from a program."""
    scores = RewardModel.load(folder).score(PROBLEM, programs)
    assert [len(s) for s in scores] == [3, 1, 2, 0] and len({x for s in scores for x in s}) == 6
    for found, code in zip(scores, programs, strict=True):
        assert found == pytest.approx(direct(code), abs=1e-5)
    assert RewardModel.load(folder).score(PROBLEM, programs) == scores


@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_classifier_of_sequences_judges_each_prefix_as_an_answer(saved, ragged_programs, chat):
    folder, *opened = saved("SequenceClassification", labels=1, chat=chat)
    form = "<user>{}<assistant>{}" if chat else "{}{}"
    assert_scores(
        folder,
        ragged_programs,
        lambda code: [torch.sigmoid(logits(*opened, form.format(BEFORE, p))).item() for p in prefixes(code)],
    )


def test_a_classifier_of_tokens_is_read_behind_each_step(saved, ragged_programs):
    folder, *opened = saved("TokenClassification")

    def direct(code):
        steps = [step.text + "\n\n" for step in split_steps(code)]
        ends = [len((BEFORE + text).encode()) - 1 for text in accumulate(steps)]  # the tokenizer's tokens are bytes
        return logits(*opened, BEFORE + "".join(steps)).softmax(-1)[ends, 1].tolist() if steps else []

    assert_scores(f"{folder}?after=%0A%0A", ragged_programs, direct)


@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_language_model_answers_yes_or_no_behind_each_prefix(saved, ragged_programs, chat):
    folder, tokenizer, model = saved("CausalLM", chat=chat)
    yes, no = (tokenizer(word).input_ids[0] for word in "+-")
    form = "<user>{}<assistant>" if chat else "{}"

    def direct(code):
        rows = [logits(tokenizer, model, form.format(BEFORE + p + QUESTION))[-1] for p in prefixes(code)]
        return [row[[yes, no]].softmax(0)[0].item() for row in rows]

    assert_scores(f"{folder}?yes=+&no=-", ragged_programs, direct)


def test_a_statement_that_is_too_long_loses_its_middle(saved):
    folder, *_ = saved("TokenClassification")
    long = Problem("long", "Long", "a" * 5000, "easy", "test", (), ())
    assert len(RewardModel.load(folder).score(long, ["x = 1\n"])[0]) == 1


def test_what_is_no_reward_model_is_refused(saved, tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint of this suite, and no model that `transformers` opens"):
        RewardModel.load(tmp_path / "nothing-here")
    folder, *_ = saved("SequenceClassification", labels=3)
    with pytest.raises(WeightsError, match=r"LlamaForSequenceClassification with 3 labels.*with 1 label,"):
        RewardModel.load(folder)
    folder, *_ = saved("CausalLM")
    with pytest.raises(InputError, match="there is no option `yess`"):
        RewardModel.load(f"{folder}?yess=+")
    with pytest.raises(InputError, match="'Yes' is 3 tokens"):
        RewardModel.load(folder).score(PROBLEM, ["x = 1\n"])


def test_evaluate_puts_it_into_the_table(saved, tmp_path, capsys):
    folder, *_ = saved("SequenceClassification", labels=1)
    problem = load_problems("starter")[0]
    codes = {"print(1)\n": True, "print(2)\n": False}
    rows = [
        {"problem": problem.id, "sample": k, "code": code, "steps": [code], "passed": ok, "verdict": "x", "tokens": 1}
        for k, (code, ok) in enumerate(codes.items())
    ]
    (tmp_path / "candidates.jsonl").write_bytes(as_json_lines(rows))
    assert main(["evaluate", str(tmp_path / "candidates.jsonl"), "--prm", folder, "--out", str(tmp_path / "out")]) == 0
    first, second = (s[0] for s in RewardModel.load(folder).score(problem, list(codes)))
    found = re.search(r"^prm +.*", capsys.readouterr().out, re.MULTILINE)[0]
    assert ("100.0" in found) == (first > second)
    assert "prm," in (tmp_path / "out" / "table.csv").read_text()
