"""Is a set of problems sound?  References and second solutions run in the sandbox against tests and random inputs."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox import Sandbox, outputs_match

GENERATED = 30  # random inputs on which the two solutions must agree


def validate(problems: Sequence[Problem]) -> tuple[pd.DataFrame, list[str]]:
    """A row for each problem, and the faults found, in words.

    Columns: problem, split, difficulty, tests, agreed (generated inputs on which reference and second solution agree),
    mutants, killed (wrong programs made from the reference, and how many a test fails).  Faults: the rule for the
    difficulty is broken, an input stands twice, the reference or the second solution fails, the two disagree, or fewer
    than 90 % of the mutants that are not known as equivalent are killed.
    """
    rows, faults = [], []
    with Sandbox() as sandbox:
        for problem in tqdm(problems, desc="validating", unit="problem"):
            found = _form_faults(problem)
            solutions = [code for code in (problem.reference, problem.brute) if code]
            whole = replace(problem, tests=problem.samples + problem.tests)
            for name, verdict in zip(
                ("reference", "second solution"), sandbox.grade([(whole, code) for code in solutions]), strict=False
            ):
                if not verdict.passed:
                    found.append(f"the {name} fails test {verdict.test}: {verdict.kind} {verdict.detail}")
            agreed = _agreement(problem, sandbox, found) if problem.generator and problem.brute else 0
            mutants = list(dict.fromkeys(m.code for m in mutate(problem.reference))) if problem.reference else []
            killed = sum(not v.passed for v in sandbox.grade([(problem, code) for code in mutants]))
            survivors = len(mutants) - killed
            if mutants and survivors > len(problem.equivalent) and killed < 0.9 * len(mutants):
                found.append(f"only {killed} of {len(mutants)} mutants are killed")
            faults += [f"{problem.id}: {fault}" for fault in found]
            rows.append(
                {
                    "problem": problem.id,
                    "split": problem.split,
                    "difficulty": problem.difficulty,
                    "tests": len(problem.tests),
                    "agreed": agreed,
                    "mutants": len(mutants),
                    "killed": killed,
                }
            )
    return pd.DataFrame(rows), faults


def difficulty_by_rules(rules: Sequence[str]) -> str:
    """The written rule: one or two things to do beyond reading and printing are easy, three medium, more hard."""
    return "easy" if len(rules) <= 2 else "medium" if len(rules) == 3 else "hard"


def _form_faults(problem: Problem) -> list[str]:
    faults = []
    if problem.rules and problem.difficulty != difficulty_by_rules(problem.rules):
        faults.append(f"{len(problem.rules)} rules make it {difficulty_by_rules(problem.rules)}")
    inputs = [t.input for t in problem.samples + problem.tests]
    if problem.source == "starter" and len(set(inputs)) < len(inputs):
        faults.append("an input stands twice")
    return faults


def _agreement(problem: Problem, sandbox: Sandbox, faults: list[str]) -> int:
    """On how many generated inputs the two solutions print the same; a disagreement is added to `faults`."""
    seeds = [random.Random(f"{problem.id}/{k}").getrandbits(32) for k in range(GENERATED)]
    maker = f"{problem.generator}\nimport random, sys\nsys.stdout.write(generate(random.Random(int(input()))))\n"
    inputs = [made.stdout for made in sandbox.run([(maker, f"{seed}\n") for seed in seeds])]
    first = sandbox.run([(problem.reference, text) for text in inputs])
    second = sandbox.run([(problem.brute, text) for text in inputs])
    agreed = 0
    for text, a, b in zip(inputs, first, second, strict=True):
        if text and a.status == b.status == "ok" and outputs_match(a.stdout, b.stdout, problem.tolerance):
            agreed += 1
    if agreed < GENERATED:
        faults.append(f"the two solutions agree on {agreed} of {GENERATED} generated inputs")
    return agreed


# ------------------------------------------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """A wrong program made from a right one: what was changed, in which line, and the text."""

    change: str
    line: int
    code: str


_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_COMPARISONS |= {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}


def mutate(code: str) -> Iterator[Mutant]:
    """Small wrong changes, one at a time: comparisons, operators, constants + 1, and / or, min / max, branches."""
    tree = ast.parse(code)
    for index, node in enumerate(ast.walk(tree)):
        for change, edit in _edits(node):
            changed = copy.deepcopy(tree)
            edit(list(ast.walk(changed))[index])
            yield Mutant(change, getattr(node, "lineno", 0), ast.unparse(ast.fix_missing_locations(changed)))


def _edits(node: ast.AST) -> Iterator[tuple]:
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARISONS:
            yield "comparison", lambda n: n.ops.__setitem__(0, _COMPARISONS[type(n.ops[0])]())
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield "operator", lambda n: setattr(n, "op", _OPERATORS[type(n.op)]())
        case ast.BoolOp():
            yield "and / or", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
        case ast.Constant(value=value) if type(value) is int:
            yield "constant", lambda n: setattr(n, "value", n.value + 1)
        case ast.Call(func=ast.Name(id="min" | "max")):
            yield "min / max", lambda n: setattr(n.func, "id", "max" if n.func.id == "min" else "min")
        case ast.If():
            yield "branch dropped", lambda n: setattr(n, "test", ast.Constant(False))
            yield "branch forced", lambda n: setattr(n, "test", ast.Constant(True))
