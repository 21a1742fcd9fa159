"""The numbers of parameters that are pinned with the weights."""

import math

import pytest
from safetensors import safe_open

from dreamprm_lib.engine.files import cache_dir
from dreamprm_lib.engine.weights import WEIGHTS

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("name", [name for name, entry in WEIGHTS.items() if entry.parameters])
def test_the_pinned_numbers_of_parameters_are_those_of_the_converted_files(name):
    if not (folder := cache_dir() / "safetensors" / name).exists():
        pytest.skip(f"{name} is not here")
    with safe_open(folder / "model.safetensors", "pt") as file:
        sizes = {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}
    twice = sizes["model.embed_tokens.weight"] if "lm_head.weight" in sizes else 0
    assert WEIGHTS[name].parameters == sum(sizes.values()) - twice
