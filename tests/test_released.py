"""A tiny model saved in exactly the original's layout comes in, scores as the original would, and round-trips."""

from itertools import accumulate

import pytest
import torch

from dreamprm_lib.chain_of_functions import split_steps
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.released import TEMPLATE
from dreamprm_lib.errors import WeightsError
from dreamprm_lib.reward_model import RewardModel

pytestmark = pytest.mark.usefixtures("float32_backbones")

PROBLEM = Problem("1873_A", "Short", "Sort the cards.", "easy", "test", (), (), source="codeforces")
PROGRAM = "def main():\n    print(add())\n\n\ndef add():\n    return 1\n"


class Original(torch.nn.Module):
    """The original's module: a causal LM under peft's LoRA in `lm`, the head in `reward_head`, pooled at the end."""

    def __init__(self, folder, rank=4):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        super().__init__()
        lm = AutoModelForCausalLM.from_pretrained(folder)
        config = LoraConfig(r=rank, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        self.lm = get_peft_model(lm, config)
        self.reward_head = torch.nn.Linear(lm.config.hidden_size, 1)
        torch.manual_seed(1)
        for name, p in self.named_parameters():
            if "lora" in name or "head" in name:
                p.data = 0.2 * torch.randn_like(p)

    def score(self, ids):
        with torch.no_grad():
            state = self.lm.eval()(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
            return torch.sigmoid(self.reward_head(state)).item()


@pytest.fixture
def original(tiny_backbone):
    return Original(tiny_backbone)


def test_a_released_checkpoint_scores_as_the_original_and_round_trips(original, tiny_backbone, tmp_path):
    """Also out of a whole training state, and with the names that DDP gives."""
    from transformers import AutoTokenizer

    path, state = tmp_path / "reward_model_step_50.pt", original.state_dict()
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    prefixes = accumulate(step.text for step in split_steps(PROGRAM))
    texts = [TEMPLATE.root(PROBLEM) + prefix + TEMPLATE.after for prefix in prefixes]
    expected = pytest.approx([original.score(tokenizer(text).input_ids) for text in texts], abs=1e-4)
    under_ddp = {f"module.{name}": t for name, t in state.items()}
    for layout in (state, {"module": state, "steps": torch.tensor(50)}, under_ddp):
        torch.save(layout, path)
        model = RewardModel.from_released(path, tiny_backbone)
        (scores,) = model.score(PROBLEM, [PROGRAM])
        assert scores == expected
    model.save(tmp_path / "m.safetensors")
    assert RewardModel.load(tmp_path / "m.safetensors").score(PROBLEM, [PROGRAM]) == [scores]


class Payload:
    def __reduce__(self):
        return (print, ("exploded",))


def without(word):
    return lambda state: {name: t for name, t in state.items() if word not in name}


@pytest.mark.parametrize(
    "change, said",
    [
        (without("reward_head.bias"), "has no reward_head.bias"),
        (without("lora_"), "has no LoRA matrices"),
        (without("lora_B"), "a LoRA pair is not whole"),
        (lambda s: {n: t[:2] if "layers.0.self_attn.q_proj.lora_A" in n else t for n, t in s.items()}, "do not fit"),
        (lambda s: {n: t + 1 if "layers.1.mlp.up_proj" in n else t for n, t in s.items()}, "another backbone"),
        (lambda s: {n: t[:, :16] if "base_layer" in n else t for n, t in s.items()}, "another backbone"),
        (lambda s: list(s.values()), "is no state dict"),
        (lambda s: {**s, "x": Payload()}, "holds more than tensors"),
    ],
)
def test_what_does_not_fit_is_refused_and_no_payload_runs(original, tiny_backbone, tmp_path, change, said, capsys):
    torch.save(change(original.state_dict()), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=said):
        RewardModel.from_released(tmp_path / "x.pt", tiny_backbone)
    assert "exploded" not in capsys.readouterr().out


def test_a_file_that_is_damaged_or_missing_is_refused(original, tiny_backbone, tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(WeightsError, match=r"There is no checkpoint .*x\.pt"):
        RewardModel.from_released(path, tiny_backbone)
    torch.save(original.state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-200]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"cut short or damaged|holds more than tensors, or is no checkpoint"):
            RewardModel.from_released(path, tiny_backbone)
