"""Read programming problems: the sets that this project knows, or files of your own.

`load_problems` reads the starter set (one TOML file a problem, programs kept as text), HumanEval (see
`engine.humaneval`), `codeio` (see `engine.codeio`), LiveCodeBench (raw files of the Hugging Face hub), or a path:
a TOML file, a folder of them, or JSON Lines in LiveCodeBench's schema.  Reading a problem never runs code, except that
of `codeio`, whose tests are computed in the sandbox when they are first needed.
"""

import base64
import io
import pickle
import re
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl

import huggingface_hub
from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, Strict

from dreamprm_lib.engine import codeio, humaneval
from dreamprm_lib.engine.files import DATA, from_json, json_lines, read_text
from dreamprm_lib.engine.leakage import refuse_leaks
from dreamprm_lib.engine.problem import (
    SPLITS,
    Difficulty,
    Kind,
    Problem,
    Split,
    Test,
    TestKind,
    Unrated,
    by_difficulty,
    describe,
    hash_share,
    named,
    split_of,
)
from dreamprm_lib.engine.schema import Form, checked, form_of
from dreamprm_lib.errors import InputError

__all__ = ["SPLITS", "Problem", "Test", "by_difficulty", "describe", "load_problems", "named"]

Release = Literal["v1", "v2", "v3", "v4", "v5", "v6"]  # of LiveCodeBench, each with all before it
LIVECODEBENCH = "livecodebench/code_generation_lite"


def load_problems(source: str | Path | Sequence[str | Path], split: str | None = None) -> list[Problem]:
    """Problems of `starter`, `humaneval`, `codeio`, `livecodebench`, or of a path, in a fixed order.

    TOML files are ordered by date, those without one first, and then by name, so that a set grows at its end.

    Several sources are given as a list, or joined by commas as in `starter,codeio`; a comma behind a question mark
    belongs to the options of the last one.  `split` keeps one of train, meta, test.  HumanEval and `codeio` get
    their split by a stable hash of the problem's text (40 / 15 / 45 percent), LiveCodeBench by one of the problem's id
    (60 / 15 / 25 percent).  Options may follow a source as in a web address, for example
    `livecodebench?release=v5&train_before=2024-08-01&test_from=2025-02-01`:

    - `release`: `v1` … `v6`, LiveCodeBench's releases, each with all before it (default: v6);
    - `train_before`, `test_from`: split by date (YYYY-MM-DD); earlier problems are train (a fifth of them, by hash,
      meta), later ones test, and those between are left out;
    - `first`: only so many of the source's problems, in its order;
    - `drop`: ids to leave out, with commas between;
    - `split`: the split of all that is left, such as `humaneval?split=test` for a study that trains on nothing of it.

    Raises `InputError` with the file, line and field that is wrong, and for a leak between splits: an id that appears
    twice, or near-identical statements in different splits.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if isinstance(source, str):
        names, mark, options = source.partition("?")
        *others, last = names.split(",")
        source = [*others, f"{last}{mark}{options}"]
    sources = [source] if isinstance(source, Path) else source
    problems = [problem for one in sources for problem in _read_source(str(one))]
    refuse_leaks(problems, ",".join(map(str, sources)))
    return [p for p in problems if split is None or p.split == split]


# --- Sources and their options ----------------------------------------------------------------------------------------


def _day(text: str) -> str:
    """The day of a moment; "" stays as it is."""
    if text and not re.match(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("it should be a date, YYYY-MM-DD")
    return text[:10]


Day = Annotated[str, AfterValidator(_day)]


class _Options(Form):
    """What may follow the question mark of a source."""

    release: Release = "v6"
    train_before: Day = ""
    test_from: Day = ""
    first: Annotated[NonNegativeInt, Strict(False)] | None = None
    drop: str = ""
    split: Literal["", "train", "meta", "test"] = ""


def _read_source(source: str) -> list[Problem]:
    """The problems of one source that its options leave."""
    place, _, query = source.partition("?")
    if query and not parse_qsl(query):
        raise InputError(f"{source}: options are written `?name=value&name=value`.")
    options = checked(_Options, dict(parse_qsl(query)), source, noun="option")
    if place == "humaneval":
        problems = humaneval.read()
    elif place == "codeio":
        problems = codeio.read()
    elif place == "livecodebench":
        problems = _read_livecodebench(options.release)
    else:
        problems = _read_path(DATA / "starter" if place == "starter" else Path(place))
    problems = _split_by_date(problems[: options.first], options, source)
    if not (left := [p for p in problems if p.id not in options.drop.split(",")]):
        raise InputError(f"{source}: no problem is left.")
    return [replace(p, split=options.split or p.split) for p in left]


def _split_by_date(problems: list[Problem], options: _Options, source: str) -> list[Problem]:
    """The problems with their split by date, if one is asked for."""
    train_before, test_from = options.train_before, options.test_from
    if bool(train_before) != bool(test_from):
        raise InputError(f"{source}: a split by date needs both `train_before` and `test_from`.")
    if train_before > test_from:
        raise InputError(f"{source}: `train_before` lies after `test_from`, so some problems would be in both.")
    if not test_from:
        return problems
    if undated := [p.id for p in problems if not p.date]:
        raise InputError(f"{source}: {undated[0]!r} has no date, so problems can't be chosen by date.")
    early = [replace(p, split="meta" if hash_share(p.id) < 0.2 else "train") for p in problems if p.date < train_before]
    return early + [replace(p, split="test") for p in problems if p.date >= test_from]


def _read_path(path: Path) -> list[Problem]:
    if not path.exists():
        raise InputError(
            f"No problems at {path}: give `starter`, `humaneval`, `codeio`, `livecodebench`, a .toml file, a folder of "
            "them, or a .jsonl file in LiveCodeBench's schema."
        )
    files = sorted(file for ending in ("toml", "toml.gz") for file in path.glob(f"*.{ending}"))
    if path.is_dir() and not files:
        raise InputError(f"{path} holds no .toml file, so no problem.")
    if path.is_dir() or path.name.endswith((".toml", ".toml.gz")):
        return sorted((read_toml(file) for file in files or [path]), key=lambda problem: problem.date)
    return _read_json_lines(path)


def _read_livecodebench(release: str) -> list[Problem]:
    files = ["test.jsonl", *(f"test{number[1:]}.jsonl" for number in get_args(Release)[1:] if number <= release)]
    try:
        folder = huggingface_hub.snapshot_download(LIVECODEBENCH, repo_type="dataset", allow_patterns=files)
    except OSError as error:  # the hub's own errors are of this kind, too
        raise InputError(
            "LiveCodeBench could not be fetched from the Hugging Face hub. Check the network, or download the raw "
            f"test*.jsonl files by hand and give their path instead of `livecodebench`. ({type(error).__name__})"
        ) from error
    return [problem for file in files for problem in _read_path(Path(folder) / file)]


# --- Forms of files ---------------------------------------------------------------------------------------------------

Text = Annotated[str, Field(pattern=r"\S")]  # not empty


class _Test(Form, extra="ignore"):
    """A test as LiveCodeBench and our TOML files write it."""

    input: str
    output: str
    kind: TestKind = Field("stdin", alias="testtype")


class _Tests(Form):
    tests: list[_Test]


class _TomlProblem(form_of(Problem)):  # type: ignore[misc]  # the fields of a problem, some of them stricter
    id: Text
    title: Text
    statement: Text
    reference: Text
    difficulty: Difficulty
    split: Split | None = None
    kind: Literal[Kind, ""] = ""  # files that are not ours need not say it
    date: Day = ""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    samples: Annotated[list[_Test], Field(min_length=1)]
    tests: Annotated[list[_Test], Field(min_length=1)]


def read_toml(path: Path) -> Problem:
    """One problem: the keys are those of `Problem`, and samples and tests are tables of input and output.

    Raises `InputError` that names each key that is missing, unknown or wrong, with its value.
    """
    try:
        data = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as TOML: {error or 'nested too deeply'}.") from error
    form = checked(_TomlProblem, data, path)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in form}
    values |= {"split": form.split or split_of(form.id), "samples": _known(form.samples), "tests": _known(form.tests)}
    return Problem(**values)


def _known(forms: Sequence[_Test]) -> tuple[Test, ...]:
    return tuple(Test(**dict(form)) for form in forms)


class LcbQuestion(Form, extra="ignore"):
    """The fields of a question in LiveCodeBench's problems and in its `…_eval_all.json`, by our names for them."""

    id: Annotated[Text, BeforeValidator(lambda x: str(x) if type(x) is int else x)] = Field(alias="question_id")
    title: str = Field(alias="question_title")
    statement: Text = Field(alias="question_content")
    difficulty: Annotated[Difficulty | Unrated, BeforeValidator(lambda x: x.lower() if isinstance(x, str) else x)]
    source: str = Field("livecodebench", alias="platform")
    date: Day = Field("", alias="contest_date")
    starter_code: str = ""

    def problem(self, split: str, **others: Any) -> Problem:
        """The problem that the question asks, with `others` of its fields."""
        own = {name: getattr(self, name) for name in LcbQuestion.model_fields}
        return Problem(**{"samples": (), "tests": (), **own, **others}, split=split)


class _LcbProblem(LcbQuestion, extra="ignore"):
    public_test_cases: Any
    private_test_cases: Any
    metadata: Any = None
    split: Split | None = None


class _Metadata(Form, extra="ignore"):
    func_name: str | None = None


def _read_json_lines(path: Path) -> list[Problem]:
    """A problem a line, in the schema of LiveCodeBench's `code_generation_lite`.

    Raises `InputError` that names the line, and each field that is missing or wrong, with its value.
    """
    problems = []
    for where, values in json_lines(path):
        row, place = checked(_LcbProblem, values, where), f"{where}, field `metadata`"
        metadata = from_json(row.metadata or "{}", place) if isinstance(row.metadata, str | None) else row.metadata
        entry_point = checked(_Metadata, metadata, place).func_name or ""
        public = unpack_tests(row.public_test_cases, f"{where}, field `public_test_cases`")
        tests = public + unpack_tests(row.private_test_cases, f"{where}, field `private_test_cases`")
        split = row.split or split_of(row.id)
        problems.append(row.problem(split, samples=public, tests=tests, entry_point=entry_point))
    return problems


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
    return _known(checked(_Tests, {"tests": entries}, where).tests)


class _StringUnpickler(pickle.Unpickler):
    """Reads a pickled `str` and nothing else: no class or function is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a pickled test may hold text only, not {module}.{name}")
