"""What a reward model reads: what its scores rest on, and what reading the other way round says.

A ranking says how good a score is, and nothing of where it comes from.  Chapter 11 builds the baselines; here is the
reverse, a model that reads the program and says how well it explains the problem (Coder-Reviewer, arXiv 2211.16490).
"""

import ast
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dreamprm_lib.engine.foreign import foreign_model
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.study.rows import Program


def read_backwards(reader: str, problems: Mapping[str, Problem], programs: Sequence[Program]) -> np.ndarray:
    """The mean log-probability of a token of its problem's statement, in nats, behind each program [programs].

    `reader` names a causal LM as `transformers` or `engine.weights` know it.  Each program takes a pass of its
    own.  Only programs of mixed problems are read; all others get 0, because where all programs pass or all fail, their
    order decides nothing.  What was read is kept on disk.
    """
    eye = foreign_model(f"{reader}?backwards=1")
    verdicts = pd.Series([p.passed for p in programs]).groupby([p.problem for p in programs]).nunique()
    found = np.zeros(len(programs))
    for name in tqdm(verdicts.index[verdicts > 1], desc=f"reading backwards with {reader}", unit="problem"):
        mine = [k for k, program in enumerate(programs) if program.problem == name]
        read = eye.features(problems[name], [[programs[k].code] for k in mine])
        found[mine] = np.concatenate(read).ravel()
    return found


def without_docstrings(code: str) -> str:
    """The program as `ast` writes it, without docstrings and comments; a text that is no Python stays as it is."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"
