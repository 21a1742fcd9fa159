"""How fast, how steady and how linear is grading?  Prints ratios; nothing here decides whether a test passes.

    python benchmarks/grading.py [--programs 120] [--tests 10] [--regradings 1000]

(a) the sandbox with every layer that this machine gives, (b) one `python` process a test, without any isolation: both
run the starter problems' references, in turns, three times each, on all cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.comparison import first_difference
from dreamprm_lib.engine.sandbox.judge import AT_ONCE, Sandbox

ROUNDS = 3
CORES = os.cpu_count() or 1


def seconds(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def one_python_a_test(pairs) -> None:
    def run(job) -> bool:
        code, test = job
        ran = subprocess.run([sys.executable, "-c", code], input=test.input, capture_output=True, text=True)
        return not first_difference(ran.stdout, test.output)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(run, [(code, test) for problem, code in pairs for test in problem.tests]))


def flips_under_load(sandbox, pairs, runs) -> int:
    """How many of `runs` further verdicts of each program differ in kind from its first one, on a busy machine."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * CORES)]
    try:
        first, *again = ([verdict.kind for verdict in sandbox.grade(pairs)] for _ in range(1 + runs))
    finally:
        for process in busy:
            process.kill()
    return sum(kind != before for kinds in again for kind, before in zip(kinds, first, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=120)
    parser.add_argument("--tests", type=int, default=10)
    parser.add_argument("--regradings", type=int, default=1000)
    options = parser.parse_args()
    problems = load_problems("starter")[: options.programs]
    pairs = [(replace(p, tests=p.tests[: options.tests]), p.reference) for p in problems]
    tests = sum(len(problem.tests) for problem, _ in pairs)
    with Sandbox(workers=AT_ONCE) as sandbox:
        missing = [name for name, on in sandbox.report().items() if not on]
        print(f"{len(pairs)} programs, {tests} tests, {CORES} cores; layers missing: {', '.join(missing) or 'none'}")
        sandbox.grade(pairs[:AT_ONCE])
        ours, plain = [], []
        for _ in range(ROUNDS):
            ours.append(seconds(partial(sandbox.grade, pairs)))
            plain.append(seconds(partial(one_python_a_test, pairs)))
        a, b = (1000 * statistics.median(times) / tests for times in (ours, plain))
        print(f"sandbox {a:.2f} ms a test, one python a test {b:.2f} ms: {b / a:.1f} times")

        costs = {}
        for part in (pairs[: len(pairs) // 4], pairs[: len(pairs) // 2], pairs):
            costs[len(part)] = min(seconds(partial(sandbox.grade, part)) for _ in range(ROUNDS)) / len(part)
        print("cost a program, against the whole set:", {n: round(c / costs[len(pairs)], 2) for n, c in costs.items()})

        wrong = [(p, "print(0)") for p, _ in pairs] + [(p, "1 / 0") for p, _ in pairs]
        mixed = [pair for group in zip(pairs, wrong, strict=False) for pair in group][:100]
        runs = -(-options.regradings // len(mixed))
        flips = flips_under_load(sandbox, mixed, runs)
        print(f"{runs * len(mixed)} re-gradings beside {2 * CORES} busy processes: {flips} flips")


if __name__ == "__main__":
    main()
