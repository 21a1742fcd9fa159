"""Is a set of problems sound?  References and second solutions run in the sandbox against tests and random inputs."""

import ast
import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.engine.problem import Problem
from dreamprm_lib.engine.sandbox.comparison import first_difference
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.engine.sandbox.verdicts import Verdict

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
            whole = _with_samples(problem)
            verdicts = sandbox.grade([(whole, problem.reference), (whole, problem.brute)])
            graded = zip(("reference", "second solution"), verdicts, strict=True)
            found += [f"the {name} {_failure(verdict)}" for name, verdict in graded if not verdict.passed]
            row = {"problem": problem.id, "split": problem.split, "difficulty": problem.difficulty}
            row |= {"tests": len(problem.tests), "agreed": _agreed(problem, sandbox, found)}
            rows.append(row | _mutant_columns(problem, sandbox, found))
            faults += [f"{problem.id}: {fault}" for fault in found]
    return pd.DataFrame(rows), faults


def check_references(problems: Sequence[Problem]) -> tuple[pd.DataFrame, list[str]]:
    """Does each reference pass its own samples and tests?  For sets without a second solution and a generator.

    A row for each split: split, problems, tests (a problem, the fewest), passed (references that pass all); and the
    faults found, in words.
    """
    with Sandbox() as sandbox:
        verdicts = sandbox.grade([(_with_samples(p), p.reference) for p in problems], progress=True)
    graded = list(zip(problems, verdicts, strict=True))
    faults = [f"{p.id}: the reference {_failure(verdict)}" for p, verdict in graded if not verdict.passed]
    table = pd.DataFrame([{"split": p.split, "tests": len(p.tests), "passed": v.passed} for p, v in graded])
    splits = table.groupby("split", as_index=False, sort=False)
    return splits.agg(problems=("tests", "size"), tests=("tests", "min"), passed=("passed", "sum")), faults


def _with_samples(problem: Problem) -> Problem:
    return replace(problem, tests=problem.samples + problem.tests)


def _failure(verdict: Verdict) -> str:
    return f"fails test {verdict.test}: {verdict.kind} {verdict.detail}"


def _form_faults(problem: Problem) -> list[str]:
    """What is wrong before anything runs.  One or two rules make a problem easy, three medium, and more hard."""
    faults = []
    count = len(problem.rules)
    level = "easy" if count <= 2 else "medium" if count == 3 else "hard"
    if count and problem.difficulty != level:
        faults.append(f"{count} rules make it {level}")
    if len(problem.tests) < MIN_TESTS:
        faults.append(f"{len(problem.tests)} tests are fewer than {MIN_TESTS}")
    inputs = [t.input for t in problem.samples + problem.tests]
    if len(set(inputs)) < len(inputs):
        faults.append("an input appears twice")
    return faults


def _agreed(problem: Problem, sandbox: Sandbox, faults: list[str]) -> int:
    """On how many generated inputs the two solutions print the same; a disagreement is added to `faults`."""
    seeds = [random.Random(f"{problem.id}/{k}").getrandbits(32) for k in range(GENERATED)]
    maker = f"{problem.generator}\nimport random, sys\nsys.stdout.write(generate(random.Random(int(input()))))\n"
    inputs = [made.stdout for made in sandbox.run([(maker, f"{seed}\n") for seed in seeds])]
    runs = sandbox.run([(code, text) for code in (problem.reference, problem.brute) for text in inputs], problem)
    agreed = sum(
        bool(text) and a.status == b.status == "ok" and not first_difference(a.stdout, b.stdout, problem.tolerance)
        for text, a, b in zip(inputs, runs[:GENERATED], runs[GENERATED:], strict=True)
    )
    if agreed < GENERATED:
        faults.append(f"the two solutions agree on {agreed} of {GENERATED} generated inputs")
    return agreed


def _mutant_columns(problem: Problem, sandbox: Sandbox, faults: list[str]) -> dict:
    """What becomes of the mutants; faults are added to `faults`.

    An entry of `problem.equivalent` is the changed line, two blanks, and `# why it changes nothing`.
    """
    mutants = dict(mutate(problem.reference))
    verdicts = sandbox.grade([(problem, code) for code in mutants])
    surviving = [line for line, verdict in zip(mutants.values(), verdicts, strict=True) if verdict.passed]
    equivalent = [entry.split("  # ")[0] for entry in problem.equivalent]
    for line in equivalent:
        if line not in surviving:
            faults.append(f"{line!r} is listed as equivalent, but no such mutant passes all tests")
    survivors = [line for line in surviving if line not in equivalent]
    killed = len(mutants) - len(surviving)
    wrong = killed + len(survivors)
    told = "; ".join(survivors)
    if killed < KILLED * wrong:
        faults.append(f"only {killed} of {wrong} mutants are killed; these pass: {told}")
    return {"mutants": len(mutants), "equivalent": len(mutants) - wrong, "killed": killed, "survivors": told}


_SWAPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.And: ast.Or, ast.Or: ast.And}
_SWAPPED |= {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}
_SWAPPED |= {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}


def mutate(code: str) -> Iterator[tuple[str, str]]:
    """Programs with one small wrong change each, and the changed line as it reads then: comparisons, operators,
    constants + 1, and / or, min / max, branches."""
    tree = ast.parse(code)
    original = ast.unparse(tree).splitlines()
    for node in ast.walk(tree):
        for fields in _edits(node):
            copies: dict[int, ast.AST] = {}
            changed = copy.deepcopy(tree, copies)
            vars(copies[id(node)]).update(fields)
            mutant = ast.unparse(ast.fix_missing_locations(changed))
            line = next((new for old, new in zip(original, mutant.splitlines(), strict=False) if new != old), "")
            yield mutant, line.strip()


def _edits(node: ast.AST) -> Iterator[dict]:
    """The changes that a node allows, each as the node's fields after it."""
    match node:
        case ast.Compare(ops=[op, *others]) if type(op) in _SWAPPED:
            yield {"ops": [_SWAPPED[type(op)](), *others]}
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in _SWAPPED:
            yield {"op": _SWAPPED[type(op)]()}
        case ast.Constant(value=value) if type(value) is int:
            yield {"value": value + 1}
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            yield {"func": ast.Name("max" if name == "min" else "min", ast.Load())}
        case ast.If():
            yield {"test": ast.Constant(False)}
            yield {"test": ast.Constant(True)}
