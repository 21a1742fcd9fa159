"""Anyone's graded candidates under a study's tables and figures: no notebook, and no sandbox."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from dreamprm_lib import test_time_scaling as tts
from dreamprm_lib.candidate_solutions import free_scores, read_lcb
from dreamprm_lib.commands.run import load_profile, stage_parameters
from dreamprm_lib.engine.problems import Problem, load_problems
from dreamprm_lib.errors import InputError
from dreamprm_lib.reward_model import RewardModel
from dreamprm_lib.show import figures
from dreamprm_lib.show.report import wide_table
from dreamprm_lib.study.folder import STAGES, Study
from dreamprm_lib.study.rows import Program, read_rows


def evaluate_command(file: Path, prm: str | None, profile: str, out: Path | None) -> str:
    """The table of a file's candidates, and differences to a random choice; tables and figures in the folder `out`."""
    chapter = stage_parameters(STAGES[6], load_profile(profile), {}, {})
    pool = read_pool(file, prm, chapter["problems"], chapter["aggregation"])
    tables = evaluate(pool, chapter["draws"], chapter["seed"])
    said = [f"Best of {pool.size} in %, with 95 % intervals over problems:", wide_table(tables["table"]).to_string()]
    if pool.size > 1:  # with one candidate a problem there is nothing to pick
        said += tables["differences"].verdict.tolist()
    if out:
        said.append(f"Tables and figures: {write(tables, out)}")
    return "\n".join(said)


def read_pool(
    file: Path, checkpoint: Path | str | None = None, problem_set: str = "starter", aggregation: str = "mean"
) -> tts.Pool:
    """The candidates of LiveCodeBench's `…_eval_all.json`, or of `candidates.jsonl` on a problem set, with the scores
    of every selector.

    Those are the ones that need no run (`first`, `shortest`, `longest`, and `mean_logprob` where it was recorded),
    and with a `checkpoint` its reward model (`prm`).  Raises `InputError` for a file that is neither.
    """
    problems, candidates = read_candidates(Path(file), load_problems(problem_set))
    scores = free_scores(problems, candidates)
    rule = dict.fromkeys((row.method for row in scores), "last")
    if checkpoint:
        scores += tts.score_candidates(RewardModel.load(checkpoint), "prm", problems, candidates)
    return tts.make_pool(problems, candidates, scores, rule | {"prm": aggregation})


def evaluate(pool: tts.Pool, draws: int = 4000, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The tables of a study by name: `table` by difficulty, `curve`, and paired `differences` to `random`."""
    pairs = [(method, "random") for method in pool.scores if method not in ("random", "oracle")]
    return {
        "table": tts.difficulty_table(pool, draws, seed),
        "curve": tts.scaling_curve(pool, draws, seed),
        "differences": tts.differences(pool, pairs, draws, seed),
    }


def write(tables: dict[str, pd.DataFrame], out: Path) -> Path:
    """Write each table as CSV, and its figure in `figures/`; the folder, which is not `out` if that is a shipped
    study."""
    figures.use_style()
    out = Path(os.path.abspath(out))
    study = Study(out.parent, out.name)
    drawn: dict[str, tuple[str, Callable[[pd.DataFrame], Figure], str]] = {
        "table": ("difficulty", figures.difficulty_figure, "Problems solved by difficulty"),
        "curve": ("curve", figures.curve_figure, "Best-of-N; the bands are those of random and oracle"),
        "differences": ("differences", figures.forest_figure, "Paired differences in problems solved"),
    }
    for name, table in tables.items():
        title, draw, caption = drawn[name]
        study.write_table(f"{name}.csv", table)
        study.save_figure(draw(table), title, f"{caption}, 95 % intervals over problems.")
    return study.folder


def read_candidates(file: Path, problems: Sequence[Problem]) -> tuple[list[Problem], list[Program]]:
    """The problems and graded programs of a file: LiveCodeBench's form, or the suite's own on these problems."""
    if file.name.removesuffix(".gz").endswith(".json"):
        graded = read_lcb(file)
        return [g.problem for g in graded], [program for g in graded for program in g.programs()]
    candidates = read_rows(file, Program)
    twice = [of for of, count in Counter((c.problem, c.sample) for c in candidates).items() if count > 1]
    if twice or not candidates:
        found = f"sample {twice[0][1]} of {twice[0][0]!r} more than once" if twice else "no candidate"
        raise InputError(f"{file} holds {found}: one line for each sample of a problem was expected.")
    known = {p.id: p for p in problems}
    if strange := sorted({c.problem for c in candidates} - set(known)):
        raise InputError(f"{file} has candidates of {strange[0]!r}, which is no problem of the sets at hand.")
    return [known[i] for i in dict.fromkeys(c.problem for c in candidates)], candidates
