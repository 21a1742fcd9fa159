"""Is a set of problems sound?  References and second solutions run in the sandbox against tests and random inputs."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.engine.sandbox.comparison import outputs_match
from dreamprm_lib.engine.sandbox.judge import Sandbox

GENERATED = 30  # random inputs on which the two solutions must agree
MIN_TESTS = 10
KILLED = 0.9  # share of the mutants, without the equivalent ones, that the tests must kill


def validate(problems: Sequence[Problem]) -> tuple[pd.DataFrame, list[str]]:
    """A row for each problem, and the faults found, in words.

    Columns: problem, split, difficulty, tests, agreed (generated inputs on which reference and second solution agree),
    mutants (wrong programs made from the reference), equivalent (those listed as no wrong programs), killed (how many
    of the others a test fails), survivors (the changed lines of those that all tests pass).  Faults: the rule for the
    difficulty is broken, there are fewer than ten tests, an input appears twice, the reference or the second solution
    fails, the two disagree, a mutant that is listed as equivalent is none, or fewer than 90 % of the others are killed.
    """
    rows, faults = [], []
    with Sandbox() as sandbox:
        for problem in tqdm(problems, desc="validating", unit="problem"):
            found = _form_faults(problem)
            whole = replace(problem, tests=problem.samples + problem.tests)
            verdicts = sandbox.grade([(whole, problem.reference), (whole, problem.brute)])
            for name, verdict in zip(("reference", "second solution"), verdicts, strict=True):
                if not verdict.passed:
                    found.append(f"the {name} fails test {verdict.test}: {verdict.kind} {verdict.detail}")
            rows.append(
                {
                    "problem": problem.id,
                    "split": problem.split,
                    "difficulty": problem.difficulty,
                    "tests": len(problem.tests),
                    "agreed": _agreement(problem, sandbox, found),
                    **_mutant_columns(problem, sandbox, found),
                }
            )
            faults += [f"{problem.id}: {fault}" for fault in found]
    return pd.DataFrame(rows), faults


def check_references(problems: Sequence[Problem]) -> tuple[pd.DataFrame, list[str]]:
    """Does each reference pass its own samples and tests?  For sets without a second solution and a generator.

    A row for each split: split, problems, tests (a problem, the fewest), passed (references that pass all); and the
    faults found, in words.
    """
    whole = [(replace(p, tests=p.samples + p.tests), p.reference) for p in problems]
    with Sandbox() as sandbox:
        verdicts = sandbox.grade(whole, progress=True)
    rows = [
        {"split": p.split, "tests": len(p.tests), "passed": v.passed} for p, v in zip(problems, verdicts, strict=True)
    ]
    table = pd.DataFrame(rows).groupby("split", as_index=False, sort=False)
    faults = [
        f"{p.id}: the reference fails test {v.test}: {v.kind} {v.detail}"
        for p, v in zip(problems, verdicts, strict=True)
        if not v.passed
    ]
    return table.agg(problems=("tests", "size"), tests=("tests", "min"), passed=("passed", "sum")), faults


def difficulty_by_rules(rules: Sequence[str]) -> str:
    """The written rule: one or two things to do beyond reading and printing are easy, three medium, more hard."""
    return "easy" if len(rules) <= 2 else "medium" if len(rules) == 3 else "hard"


def _form_faults(problem: Problem) -> list[str]:
    faults = []
    if problem.rules and problem.difficulty != difficulty_by_rules(problem.rules):
        faults.append(f"{len(problem.rules)} rules make it {difficulty_by_rules(problem.rules)}")
    if len(problem.tests) < MIN_TESTS:
        faults.append(f"{len(problem.tests)} tests are fewer than {MIN_TESTS}")
    inputs = [t.input for t in problem.samples + problem.tests]
    if len(set(inputs)) < len(inputs):
        faults.append("an input appears twice")
    return faults


def _mutant_columns(problem: Problem, sandbox: Sandbox, faults: list[str]) -> dict:
    """What becomes of the mutants; faults are added to `faults`.

    An entry of `problem.equivalent` is the changed line, two blanks, and `# why it changes nothing`.
    """
    mutants = list({m.code: m for m in mutate(problem.reference)}.values())
    verdicts = sandbox.grade([(problem, m.code) for m in mutants])
    surviving = [m.text for m, verdict in zip(mutants, verdicts, strict=True) if verdict.passed]
    equivalent = [entry.split("  # ")[0] for entry in problem.equivalent]
    for line in equivalent:
        if line not in surviving:
            faults.append(f"{line!r} is listed as equivalent, but no such mutant passes all tests")
    survivors = [line for line in surviving if line not in equivalent]
    killed = len(mutants) - len(surviving)
    wrong = killed + len(survivors)
    if killed < KILLED * wrong:
        faults.append(f"only {killed} of {wrong} mutants are killed; these pass: {'; '.join(survivors)}")
    return {
        "mutants": len(mutants),
        "equivalent": len(mutants) - wrong,
        "killed": killed,
        "survivors": "; ".join(survivors),
    }


def _agreement(problem: Problem, sandbox: Sandbox, faults: list[str]) -> int:
    """On how many generated inputs the two solutions print the same; a disagreement is added to `faults`."""
    seeds = [random.Random(f"{problem.id}/{k}").getrandbits(32) for k in range(GENERATED)]
    maker = f"{problem.generator}\nimport random, sys\nsys.stdout.write(generate(random.Random(int(input()))))\n"
    inputs = [made.stdout for made in sandbox.run([(maker, f"{seed}\n") for seed in seeds])]
    runs = sandbox.run([(code, text) for code in (problem.reference, problem.brute) for text in inputs], problem)
    agreed = sum(
        bool(text) and a.status == b.status == "ok" and outputs_match(a.stdout, b.stdout, problem.tolerance)
        for text, a, b in zip(inputs, runs[:GENERATED], runs[GENERATED:], strict=True)
    )
    if agreed < GENERATED:
        faults.append(f"the two solutions agree on {agreed} of {GENERATED} generated inputs")
    return agreed


# ------------------------------------------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """A wrong program made from a right one: the kind of change, the changed line as it reads now, and the program."""

    change: str
    text: str
    code: str


_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_COMPARISONS |= {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}


def mutate(code: str) -> Iterator[Mutant]:
    """Small wrong changes, one at a time: comparisons, operators, constants + 1, and / or, min / max, branches."""
    tree = ast.parse(code)
    original = ast.unparse(tree).splitlines()
    for node in ast.walk(tree):
        for change, fields in _edits(node):
            copies: dict[int, ast.AST] = {}
            changed = copy.deepcopy(tree, copies)
            vars(copies[id(node)]).update(fields)
            mutant = ast.unparse(ast.fix_missing_locations(changed))
            text = next((new for old, new in zip(original, mutant.splitlines(), strict=False) if new != old), "")
            yield Mutant(change, text.strip(), mutant)


def _edits(node: ast.AST) -> Iterator[tuple[str, dict]]:
    """The kinds of change that a node allows, each with the node's fields after it."""
    match node:
        case ast.Compare(ops=[op, *others]) if type(op) in _COMPARISONS:
            yield "comparison", {"ops": [_COMPARISONS[type(op)](), *others]}
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield "operator", {"op": _OPERATORS[type(op)]()}
        case ast.BoolOp(op=op):
            yield "and / or", {"op": ast.Or() if isinstance(op, ast.And) else ast.And()}
        case ast.Constant(value=value) if type(value) is int:
            yield "constant", {"value": value + 1}
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            yield "min / max", {"func": ast.Name("max" if name == "min" else "min", ast.Load())}
        case ast.If():
            yield "branch dropped", {"test": ast.Constant(False)}
            yield "branch forced", {"test": ast.Constant(True)}
