"""Do two engines write the same sort of programs?  Compares two recordings of the same requests, problem by problem.

    DREAMPRM_CACHE=/tmp/elsewhere python -m dreamprm_lib record --only candidates --into recordings -p 03.limit=40 ...
    python benchmarks/parity.py recordings [--problems starter] [--limit 40] [--samples 8]

The first line makes the second recording, by a live engine, with a profile that says `replay: false`, and with a store
of its own.  The other recording is the shipped one.  A row is a property of the candidates: its mean in the shipped
recording and in the other one, and their paired difference with a 95 % interval over problems.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from dreamprm_lib.candidate_solutions import requests
from dreamprm_lib.chain_of_functions import sample_batch
from dreamprm_lib.engine.backbone import open_tokenizer
from dreamprm_lib.engine.policy.completions import CompletionStore, load_recording
from dreamprm_lib.engine.policy.endpoint import WEAKER, endpoint_from
from dreamprm_lib.engine.policy.policy import RECORDINGS, Policy, recording_path
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.evidence.statistics import mean_with_interval
from dreamprm_lib.study.rows import Program

TOKENIZER = open_tokenizer(WEAKER["model"])  # that of the whole family
PROPERTIES = {
    "pass rate": lambda program: program.passed,
    "two functions or more": lambda program: len(program.steps) >= 2,
    "mean log-probability": lambda program: program.mean_logprob,
    "tokens, as the engine counts them": lambda program: program.tokens,
    "tokens of the program, by one tokenizer": lambda program: len(TOKENIZER(program.code).input_ids),
}


def candidates(folder: Path, problems: str, limit: int, samples: int) -> list[Program]:
    endpoint = endpoint_from({})
    recordings = [load_recording(recording_path(endpoint.model, folder))]
    (batch,) = requests(load_problems(problems, "test")[:limit], samples, temperature=0.8)
    with tempfile.TemporaryDirectory() as nothing, Sandbox() as sandbox:
        store = CompletionStore(Path(nothing) / "store.sqlite")
        return sample_batch(Policy(endpoint, store, recordings, offline=True), sandbox, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the other recording")
    parser.add_argument("--problems", default="starter")
    parser.add_argument("--limit", type=int, default=40, help="at most so many test problems")
    parser.add_argument("--samples", type=int, default=8)
    asked = parser.parse_args()
    both = [candidates(f, asked.problems, asked.limit, asked.samples) for f in (RECORDINGS, asked.folder)]
    rows = []
    for name, of in PROPERTIES.items():
        shipped, other = (pd.Series([float(of(p)) for p in ps]).groupby([p.problem for p in ps]).mean() for ps in both)
        rows.append((name, shipped.mean(), other.mean(), *mean_with_interval(np.array(other - shipped))))
    columns = ["property", "shipped", "other", "difference", "ci_low", "ci_high"]
    print(f"{asked.limit} problems of {asked.problems}, {asked.samples} candidates each")
    print(pd.DataFrame(rows, columns=columns).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
