"""Where a model is asked, what its API takes, what it costs, and how much may be spent on it.

The table of models is `data/models.yaml`; a profile's policy extends it by `models`, in the same form.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from dreamprm_lib.engine.files import DATA, from_yaml, read_text
from dreamprm_lib.engine.policy.completions import Cost, Request
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError

EMBEDDED = "qwen2.5-coder-1.5b-instruct-q4_k_m"
WEAKER = {"model": "qwen2.5-coder-0.5b-instruct-q4_k_m"}  # the policy whose rollouts show a bias in chapter 2
PER_REQUEST = 8  # samples of one prompt in one request, where an API takes several


@dataclass(frozen=True)
class Api:
    """What the API of a model takes, and its price.

    - `n`: several samples of one prompt in one request, so that the prompt is evaluated once.
    - `prefill`: raw completions in ChatML, so that a reply can be opened for the model.
    - `sampling`: temperature and top-p are accepted (reasoning models refuse them).
    - `reasoning`: tokens that a reply may think, beside its own limit; 0 for a model that does not reason.
    - `price`: dollars for a million tokens in and out; None if it is not known.
    """

    n: bool = True
    prefill: bool = True
    sampling: bool = True
    reasoning: NonNegativeInt = 0
    price: Annotated[Sequence[NonNegativeFloat], Field(min_length=2, max_length=2)] | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where and how a model is asked.

    - `base_url`: an OpenAI-compatible API; None is the embedded engine; "openai" is the client's own default.
    - `prefill`, `takes_n`: see `Api`; None asks the table.  A model that is not there is taken for one that can do all
      of it: set `prefill` to false if it does not speak ChatML.
    - `slots`: samples under way at once (None: 64 by the embedded engine, 32 elsewhere).
    - `unpacked`: the embedded engine reads a copy of the file with weights of sixteen bits, which is made once.  It
      takes three times the disk space, and answers a few samples a fifth faster.
    - `extra`: further fields of the request's body, for servers that know them (`reasoning_effort`, for example), or
      of the embedded engine's `GenerationConfig`.
    - `key_variable`: the environment variable that holds the API key.  It is read from there and nowhere else.
    - `models`: entries that come before those of `data/models.yaml`.
    - `budget`: dollars that one study may spend on the model in all its runs (None: no limit).  Outside a study the
      limit is for all that is spent outside of studies.
    - `timeout`: seconds that the endpoint may be silent; `retries`: further tries after a failure that may pass.
    """

    model: str = EMBEDDED
    base_url: str | None = None
    prefill: bool | None = None
    takes_n: bool | None = None
    slots: PositiveInt | None = None
    unpacked: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    key_variable: str = "OPENAI_API_KEY"
    models: dict[str, dict] = field(default_factory=dict)
    budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 1800
    retries: NonNegativeInt = 6

    def __post_init__(self) -> None:
        if self.key_variable not in os.environ and not re.fullmatch(r"[A-Z_]+", self.key_variable):
            raise InputError(
                "`key_variable` must be the name of an environment variable, not a key: one that is set, or capitals "
                "such as MY_API_KEY."
            )
        if self.base_url not in (None, "openai"):
            refuse_secrets(self.base_url)
        if self.api.price is None and self.budget is not None:
            raise InputError(
                f"No price of {self.model} is known, so that a `budget` in dollars cannot be kept: give it in the "
                f"policy's settings, `models: {{{self.model}: {{price: [IN, OUT]}}}}` in dollars for a million tokens."
            )

    @cached_property
    def api(self) -> Api:
        """What the model's API takes: the table's entry, and what is said of this endpoint.  The embedded engine can do
        everything, for nothing."""
        known = Api(price=(0.0, 0.0)) if self.base_url is None else find_api(self.model, self.models) or Api()
        said: dict[str, Any] = {"prefill": self.prefill, "n": self.takes_n}
        return replace(known, **{name: value for name, value in said.items() if value is not None})

    def cost(self, prompt_tokens: int, tokens: int, completions: int) -> Cost:
        """What one answer of so many tokens in and out costs."""
        price = self.api.price
        dollars = None if price is None else (prompt_tokens * price[0] + tokens * price[1]) / 1e6
        return Cost(1, completions, prompt_tokens, tokens, dollars)

    def most(self, request: Request, n: int) -> Cost:
        """The most that one answer with `n` samples can cost: no token of a prompt is shorter than a byte."""
        return self.cost(len(request.prompt.encode()), n * request.max_tokens, n)


def endpoint_from(settings: Mapping | None) -> Endpoint:
    """The endpoint of a notebook's or a profile's settings: fields of `Endpoint` (empty: the embedded model).

    Raises `InputError` for a field that is not known or has another type; values are not repeated, they may be secret.
    """
    return row_of(Endpoint, settings or {}, "the settings of the policy", "setting", secret=True)


def refuse_secrets(url: str) -> None:
    """Raise `InputError` for an address that holds more than its host and path; it is not repeated."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise InputError(
            "The address of an endpoint must be like https://host/v1, without a name, a key or a query. The key "
            "belongs in the environment variable that `key_variable` names."
        )


def settings_from_environment(weaker: bool = False) -> dict[str, Any] | None:
    """The server that `DREAMPRM_BASE_URL` and `DREAMPRM_MODEL` name, as fields of `Endpoint`; None if neither is set.

    A model that is not in the table is asked as every server can be: by chat, one sample a request.  The `weaker` model
    of that server is `DREAMPRM_WEAK_MODEL`, or the same one if that is not set.
    """
    base_url, model = os.environ.get("DREAMPRM_BASE_URL"), os.environ.get("DREAMPRM_MODEL")
    if not base_url and not model:
        return None
    if not (base_url and model):
        raise InputError("Set both DREAMPRM_BASE_URL (an OpenAI-compatible API) and DREAMPRM_MODEL, or neither.")
    if weaker:
        model = os.environ.get("DREAMPRM_WEAK_MODEL") or model
    careful = {} if find_api(model) else {"prefill": False, "takes_n": False}
    return {"model": model, "base_url": base_url, **careful}


def find_api(model: str, own: Mapping[str, dict] | None = None) -> Api | None:
    """What the table says of a model, the entries of `own` first; None if no pattern fits."""
    name = model.lower()
    for pattern, fields in [*(own or {}).items(), *_table().items()]:
        if any(fnmatchcase(part, pattern.lower()) for part in (name, name.rsplit("/", 1)[-1])):
            return row_of(Api, fields, f"the model {pattern}", "setting", secret=True)
    return None


@cache
def _table() -> dict[str, dict]:
    path = DATA / "models.yaml"
    return from_yaml(read_text(path), path)
