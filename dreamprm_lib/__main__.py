"""The command line: `python -m dreamprm_lib COMMAND`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TypeAlias

from dreamprm_lib.errors import DreamPRMError, InputError, in_words

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
ANY = "a file, or the folder or hub name of a classifier or language model"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 success, 1 a failed run, 2 bad arguments or input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    logging.getLogger("dreamprm_lib").setLevel(logging.INFO)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("Stopped. What was complete is kept; the same command goes on from there.", file=sys.stderr)
        return 1
    except (DreamPRMError, OSError) as error:
        if options.debug:
            raise
        print(f"error: {in_words(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dreamprm_lib",
        description="Process reward models for code: a study that runs on a laptop.",
        epilog="DREAMPRM_BASE_URL and DREAMPRM_MODEL in the environment point `run` and `record` at another model: an "
        "OpenAI-compatible API (Ollama, vLLM, llama.cpp, ...) instead of the profile's policy.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries underneath log")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run_and_training(commands)
    _add_weights_and_problems(commands)
    _add_recordings(commands)
    _add_results(commands)
    _add_elsewhere(commands)
    return parser


def _add_run_and_training(commands: Commands) -> None:
    run = commands.add_parser("run", help="execute the notebooks of a study in sequence", parents=[_overrides()])
    run.add_argument(
        "--profile", default="quick", help="smoke, quick, full, live, paper, or a .yaml file (default: quick)"
    )
    run.add_argument("--study", help="name of the folder in outputs/ (default: the profile's name)")
    run.add_argument("--fresh", action="store_true", help="run every stage again, complete or not")
    run.add_argument("--dry-run", action="store_true", help="only say what it takes, and what of it is missing here")
    run.set_defaults(command=_run)

    train = commands.add_parser(
        "train", help="fine-tune a study's reward model on several devices, by torchrun", parents=[_overrides()]
    )
    train.add_argument("--profile", default="paper")
    train.add_argument("--study", help="name of the folder in outputs/ (default: the profile's name)")
    train.add_argument("--method", default="prm_cof", help="orm, prm_cof or dreamprm_code (default: prm_cof)")
    train.set_defaults(command=_train)


def _add_weights_and_problems(commands: Commands) -> None:
    weights = commands.add_parser("weights", help="list, fetch or verify pinned model weights")
    actions = weights.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="the pinned files and where they are").set_defaults(command=_weights_list)
    fetch = actions.add_parser("fetch", help="fetch one file, or go on fetching it")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--source", type=Path, help="a file that you have already; it is checked and copied")
    fetch.set_defaults(command=_weights_fetch)
    actions.add_parser("verify", help="check the digest of every file here").set_defaults(command=_weights_verify)

    problems = commands.add_parser("problems", help="list or validate problems")
    actions = problems.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="a table of the sets, or one line for each problem of a set")
    listing.add_argument("set", nargs="?", metavar="SET")
    listing.set_defaults(command=_problems_list)
    validate = actions.add_parser("validate", help="tests against references and mutants; headroom")
    validate.add_argument("set", nargs="?", default="starter", metavar="SET")
    validate.set_defaults(command=_problems_validate)


def _add_recordings(commands: Commands) -> None:
    record = commands.add_parser(
        "record", help="make or extend the recordings of a profile with a live model", parents=[_overrides()]
    )
    record.add_argument("--profile", default="quick")
    record.add_argument(
        "--only",
        choices=("solutions", "rollouts", "oracle", "candidates", "search"),
        help="one kind alone; `search`, the beam search of chapter 6, is recorded only if it is named",
    )
    record.add_argument(
        "--prm",
        type=Path,
        metavar="CHECKPOINT",
        help="the reward model that steers `--only search` (default: the small one that is shipped)",
    )
    record.add_argument(
        "--into", type=Path, metavar="DIR", help="folder of the recordings (default: the shipped ones, which grow)"
    )
    record.add_argument("--threads", type=int, help="threads of the embedded engine (default: all cores)")
    record.set_defaults(command=_record)

    store = commands.add_parser("store", help="join the completions of several machines, or see what is there")
    actions = store.add_subparsers(required=True, metavar="ACTION")
    merge = actions.add_parser("merge", help="stores (.sqlite) and recordings (.jsonl.gz) into one store")
    merge.add_argument("sources", nargs="+", type=Path, metavar="FILE")
    merge.add_argument("--into", required=True, type=Path, metavar="STORE", help="a store, new or not")
    merge.set_defaults(command=_store_merge)
    info = actions.add_parser("info", help="completions, and what each model cost")
    info.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: this machine's store")
    info.set_defaults(command=_store_info)


def _add_results(commands: Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="tables for graded candidates: LiveCodeBench's or the suite's own")
    evaluate.add_argument("file", type=Path, metavar="FILE", help="…_eval_all.json or candidates.jsonl")
    evaluate.add_argument("--prm", type=Path, metavar="CHECKPOINT", help="score with this reward model: " + ANY)
    evaluate.add_argument(
        "--profile",
        default="quick",
        help="its problem set, aggregation, number of resamples and seed in chapter 6 hold here (default: quick)",
    )
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="also write tables and figures there")
    evaluate.set_defaults(command=_evaluate)

    course = commands.add_parser("course", help="the notebooks as a course: student and instructor edition")
    actions = course.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="write both editions")
    build.add_argument("--out", type=Path, default=Path("course"), metavar="DIR", help="where to (default: course/)")
    build.add_argument("--check", action="store_true", help="also run both with the smoke profile (some minutes)")
    build.set_defaults(command=_course_build)
    grade = actions.add_parser("grade", help="a table of a class's answers, from the notebooks that they handed in")
    grade.add_argument("folder", type=Path, metavar="FOLDER", help="where the notebooks are, one or more per student")
    grade.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="how long an exercise may take (default: 10)"
    )
    grade.set_defaults(command=_course_grade)


def _add_elsewhere(commands: Commands) -> None:
    inspect = commands.add_parser("inspect", help="one HTML page: programs, and the score and label of each function")
    inspect.add_argument("target", metavar="FILE|PROBLEM", help="candidates.jsonl, solutions.jsonl, or a problem's id")
    inspect.add_argument("--study", default="reference", help="where a PROBLEM is looked up (default: reference)")
    inspect.add_argument("--prm", metavar="CHECKPOINT", help="score with this reward model: " + ANY)
    inspect.add_argument("--out", type=Path, default=Path("page.html"), metavar="PAGE", help="default: page.html")
    inspect.set_defaults(command=_inspect)

    export = commands.add_parser("export", help="a study's labels, preference pairs and pools for other trainers")
    export.add_argument("study", metavar="STUDY", help="name of the folder in outputs/, or its path")
    export.add_argument("--format", default="trl", choices=("trl", "openrlhf", "parquet"), help="default: trl")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(command=_export)


def _overrides() -> argparse.ArgumentParser:
    """The option `-p` of several commands."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "-p", dest="overrides", action="append", default=[], metavar="NOTEBOOK.parameter=value", help="set a parameter"
    )
    return parent


def _run(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.run import elsewhere, load_profile, parse_overrides, run

    profile, overrides = elsewhere(load_profile(options.profile)), parse_overrides(options.overrides)
    if options.dry_run:
        from dreamprm_lib.commands.plan import plan

        print(plan(profile, overrides))
        return

    study = run(profile, options.study, options.fresh, overrides)
    print(f"The report: {study.folder / 'report.html'}")


def _weights_list(_options: argparse.Namespace) -> None:
    from dreamprm_lib.engine.weights import listing

    for name, size, present, where in listing():
        print(f"{name:40} {size / 1e6:6.0f} MB  {where if present else 'missing'}")


def _weights_fetch(options: argparse.Namespace) -> None:
    from dreamprm_lib.engine.weights import fetch

    print(fetch(options.name, options.source))


def _weights_verify(_options: argparse.Namespace) -> None:
    from dreamprm_lib.engine.weights import verify
    from dreamprm_lib.errors import WeightsError

    states = verify()
    for name, state in states:
        print(f"{name}  {state}")
    if wrong := [name for name, state in states if state == "wrong digest"]:
        raise WeightsError(f"{', '.join(wrong)}: not the pinned file. Delete it and fetch it again.")


def _record(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.record import RECORDINGS, record
    from dreamprm_lib.commands.run import elsewhere, load_profile, parse_overrides
    from dreamprm_lib.reward_model import SMALL_PRM

    profile, overrides = elsewhere(load_profile(options.profile)), parse_overrides(options.overrides)
    folders = {"prm": options.prm or SMALL_PRM, "into": options.into or RECORDINGS}
    print(*record(profile, options.only, options.threads, **folders, overrides=overrides), sep="\n")


def _train(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.run import load_profile
    from dreamprm_lib.commands.train import train

    print(train(load_profile(options.profile), options.method, options.study, options.overrides))


def _problems_list(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.record import problem_sets
    from dreamprm_lib.engine.problems import load_problems

    if options.set is None:
        print(problem_sets().to_string(index=False, na_rep="-", float_format="{:.2f}".format))
        return
    for p in load_problems(options.set):
        print(f"{p.id:24} {p.split:6} {p.difficulty:7} {len(p.tests):3} tests  {p.title}")


def _problems_validate(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.record import recorded_headroom
    from dreamprm_lib.commands.run import NEEDED, load_profile
    from dreamprm_lib.engine.problems import load_problems
    from dreamprm_lib.engine.validation import GENERATED, check_references, validate

    problems = load_problems(options.set)
    ours = all(p.brute for p in problems)
    table, faults = validate(problems) if ours else check_references(problems)
    print(table.to_string(index=False))
    there = ", ".join(f"{sum(p.split == split for p in problems)} {split} (needed: {n})" for split, n in NEEDED.items())
    print(f"\nFor a study: {there}.")
    if not ours:
        _refuse(faults)
        return
    wrong = table.mutants.sum() - table.equivalent.sum()
    print(
        f"\n{len(table)} problems. Reference and second solution agree on {table.agreed.sum()} of "
        f"{GENERATED * len(table)} generated inputs. The tests kill {table.killed.sum()} of {wrong} mutants "
        f"({table.equivalent.sum()} equivalent ones apart)."
    )
    if options.set == "starter":
        print("\nThe recorded policy on the test problems:")
        print(recorded_headroom(load_profile("quick")).round(3).to_string(index=False))
    _refuse(faults)


def _refuse(faults: list[str]) -> None:
    if faults:
        raise InputError(f"{len(faults)} faults:\n" + "\n".join(faults))


def _store_merge(options: argparse.Namespace) -> None:
    from dreamprm_lib.engine.policy.stores import merge

    print(merge(options.sources, options.into))


def _store_info(options: argparse.Namespace) -> None:
    from dreamprm_lib.engine.policy.policy import store_path
    from dreamprm_lib.engine.policy.stores import info

    print(info(options.file or store_path()))


def _evaluate(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands import evaluate
    from dreamprm_lib.commands.run import load_profile, stage_parameters
    from dreamprm_lib.show.report import wide_table
    from dreamprm_lib.study.folder import STAGES

    chapter = stage_parameters(STAGES[6], load_profile(options.profile), {}, {})
    pool = evaluate.read_pool(options.file, options.prm, chapter["problems"], chapter["aggregation"])
    tables = evaluate.evaluate(pool, chapter["draws"], chapter["seed"])
    print(f"Best of {pool.size} in %, with 95 % intervals over problems:")
    print(wide_table(tables["table"]).to_string())
    if pool.size > 1:  # with one candidate a problem there is nothing to pick
        print(*tables["differences"].verdict, sep="\n")
    if options.out:
        print(f"Tables and figures: {evaluate.write(tables, options.out)}")


def _course_build(options: argparse.Namespace) -> None:
    from dreamprm_lib.course.editions import build, check

    folders = build(options.out)
    print(*(f"The {edition} edition: {folder}" for edition, folder in folders.items()), sep="\n")
    if options.check:
        print(*check(folders), sep="\n")


def _course_grade(options: argparse.Namespace) -> None:
    from dreamprm_lib.course.grading import write_grades

    print(write_grades(options.folder, options.seconds))


def _inspect(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.inspect import inspect

    print(inspect(options.target, options.study, options.prm, options.out))


def _export(options: argparse.Namespace) -> None:
    from dreamprm_lib.commands.export import export

    print(export(options.study, options.format, options.out))


if __name__ == "__main__":
    sys.exit(main())
