"""Consensus: programs that answer the same on made-up inputs vote for one another (execution-based majority vote).

The inputs are made from a problem's public samples alone: their numbers and words are changed, their form is kept.  No
hidden test, reference solution or generator of a problem is touched, so this is open to anyone who has the statement.
"""

import json
import random
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Execution

INPUTS = 8  # made-up inputs for a problem


def perturbed_inputs(problem: Problem, count: int = INPUTS) -> list[str]:
    """The samples' inputs and variations of them, `count` in all, the same on every call.

    A number becomes another of as many digits and the same sign, and a word gets its letters in another order; a number
    that counts what follows it (tokens or letters of the next line, or the lines to come) stays.  In the arguments of a
    function, truth values and the names of fields stay as well, and so does a number that is an argument's length.
    """
    samples = [test for test in problem.samples if test.kind in ("stdin", "functional")]
    if not samples:
        return []
    rng = random.Random(problem.id)
    made = list(dict.fromkeys(test.input for test in samples))[:count]
    for attempt in range(20 * count):
        if len(made) >= count:
            break
        sample = samples[attempt % len(samples)]
        varied = (_varied if sample.kind == "stdin" else _varied_arguments)(sample.input, rng)
        if varied not in made:
            made.append(varied)
    return made


def _varied(text: str, rng: random.Random) -> str:
    """A text with other numbers and words."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    out = []
    for number, line in enumerate(lines):
        following = lines[number + 1].split() if number + 1 < len(lines) else []
        sizes = {len(following), len(filled) - number - 1, len("".join(following))}

        def vary(match: re.Match[str], sizes: set[int] = sizes) -> str:
            token = match[0]
            if re.fullmatch(r"-?\d+", token):
                return token if abs(int(token)) in sizes else _number_like(token, rng)
            return "".join(rng.sample(token, len(token)))

        out.append(re.sub(r"-?\d+|[A-Za-z]+", vary, line))
    return "\n".join(out)


def _varied_arguments(text: str, rng: random.Random) -> str:
    """Arguments of a function, one in JSON a line, with other numbers and words."""
    arguments = [json.loads(line) for line in text.split("\n") if line.strip()]
    sizes = {len(argument) for argument in arguments if isinstance(argument, (list, str))}

    def vary(value: object) -> object:
        if isinstance(value, dict):
            return {name: vary(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [vary(inner) for inner in value]
        if isinstance(value, str):
            return _varied(value, rng)
        if isinstance(value, bool) or value is None or value in sizes:
            return value
        return json.loads(re.sub(r"^-?\d+", lambda found: _number_like(found[0], rng), json.dumps(value)))

    return "\n".join(json.dumps(vary(argument)) for argument in arguments)


def _number_like(token: str, rng: random.Random) -> str:
    digits = len(token.lstrip("-"))
    low = 0 if digits == 1 else 10 ** (digits - 1)
    sign = "-" if token.startswith("-") else ""
    return sign + str(rng.randint(low, 10**digits - 1))


FAILED = -1  # in a table of answers: the program gave none, which `pd.factorize` numbers so


def runs(
    problem: Problem, codes: Sequence[str], sandbox: Sandbox, inputs: Sequence[str]
) -> list[list[Execution | None]]:
    """What becomes of each program on each input [programs][inputs].

    A program that runs out of time on an input is not run on those that follow: there it has None.
    """
    found: list[list[Execution | None]] = [[None] * len(inputs) for _ in codes]
    running = list(range(len(codes)))
    for column, text in enumerate(inputs):
        ended = dict(zip(running, sandbox.run([(codes[k], text) for k in running], problem), strict=True))
        for k, run in ended.items():
            found[k][column] = run
        running = [k for k, run in ended.items() if run.status != "time_limit"]
    return found


def table_of(found: Sequence[Sequence[Execution | None]]) -> np.ndarray:
    """The answers in what `runs` returned, as numbers [programs, inputs]: equal numbers in a column are equal answers,
    and `FAILED` is none at all."""
    table = np.full((len(found), len(found[0]) if found else 0), FAILED)
    for column, ended in enumerate(zip(*found, strict=True)):
        said = [r.result or " ".join(r.stdout.split()) if r and r.status == "ok" else None for r in ended]
        table[:, column] = pd.factorize(pd.Series(said, dtype=object))[0]
    return table


def answers(problem: Problem, codes: Sequence[str], sandbox: Sandbox, inputs: Sequence[str]) -> np.ndarray:
    """What each program answers on each input [programs, inputs], as `table_of` has it."""
    return table_of(runs(problem, codes, sandbox, inputs))


def agreement(table: np.ndarray) -> np.ndarray:
    """For each program of a table of answers, the share of the other programs that answer the same, in [0, 1]: the mean
    over inputs.  An input on which a program fails counts as no agreement."""
    programs, inputs = table.shape
    same = (table[:, None] == table[None, :]) & (table[:, None] != FAILED)
    pairs = inputs * (programs - 1)
    return (same.sum(axis=(1, 2)) - (table != FAILED).sum(axis=1)) / pairs if pairs > 0 else np.zeros(programs)
