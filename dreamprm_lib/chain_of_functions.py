"""Chain-of-Functions (CoF) programs: the prompt that asks for them, and the splitter that takes them apart.

A CoF program is a chain of top-level functions, the high-level one first, each with a docstring that states its
strategy.  Each function is one step for a process reward model; prefix *k* is the text up to and including function
*k*, and the last prefix is the whole program (DreamPRM-Code, section 3.1).
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

from markdown_it import MarkdownIt

from dreamprm_lib.engine.files import DATA, from_yaml, read_text
from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.policy import Policy, Prompt
from dreamprm_lib.engine.problems import Problem, describe, named, read_toml
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.study.rows import Program

PROMPTS = from_yaml(read_text(DATA / "prompts.yaml"), "prompts.yaml")
SYSTEM, FUNCTION_SYSTEM = PROMPTS["program"]["system"], PROMPTS["function"]["system"]
PREFILL = PROMPTS["program"]["opening"]


@dataclass(frozen=True)
class Step:
    """One step of a program: the name of its function, and its text with all that belongs to it."""

    name: str
    text: str


# ------------------------------------------------------------------------------------------------- prompting


def cof_prompt(problem: Problem) -> Prompt:
    """The Chain-of-Functions prompt: the instruction, one worked example, the problem, the reply's first words."""
    example = worked_example(problem)
    return Prompt(
        messages=(
            ("system", FUNCTION_SYSTEM if problem.entry_point else SYSTEM),
            ("user", describe(example)),
            ("assistant", f"```python\n{example.reference.strip()}\n```"),
            ("user", describe(problem)),
        ),
        prefill=_opening(problem.starter_code.rstrip()),
        withheld="" if problem.source == "starter" else problem.id,
    )


def _opening(starter: str) -> str:
    """The reply's first words.  Where a signature is given, they go on into its docstring; of other starter code (whose
    last function has a docstring) the reply writes all by itself."""
    if not starter.endswith(":"):
        return "```python\n" if starter else PREFILL
    signature = starter.splitlines()[-1]
    indent = signature[: len(signature) - len(signature.lstrip())] + "    "
    return f"```python\n{starter}\n{indent}{PROMPTS['function']['opening']}"


def plain_prompt(problem: Problem) -> Prompt:
    """The plain prompt, for comparison: no example, no chain, no opening of a function."""
    plain = PROMPTS["function" if problem.entry_point else "program"]["plain"]
    return replace(
        cof_prompt(problem), messages=(("system", plain), ("user", describe(problem))), prefill="```python\n"
    )


def worked_example(problem: Problem) -> Problem:
    """The worked example of the problem's form: a function that is asked for, or the input that has the shape of the
    first sample's: a line of text, a row of numbers (after a line of counts), or several lines of records."""
    if problem.entry_point:
        return _example("function")
    lines = problem.samples[0].input.strip().splitlines() if problem.samples else []
    if len(lines) > 2:
        return _example("lines")
    return _example("numbers" if len(lines) == 2 or re.fullmatch(r"[-+.\d\s]+", "".join(lines)) else "text")


@cache
def _example(shape: str) -> Problem:
    return read_toml(DATA / "worked_examples" / f"{shape}.toml")


# ------------------------------------------------------------------------------------------------- extraction


def extract_code(reply: str) -> str:
    """The program in a reply: the first of its `code_blocks`."""
    return code_blocks(reply)[0]


def code_blocks(reply: str) -> list[str]:
    """The texts in a reply that may be its program, in order of preference.

    A reply that is nothing but a program is taken whole.  Any other is read as Markdown, by the rules of CommonMark
    and without its thoughts (`<think>`).  Its blocks are what the fences enclose, also in lists, in quotes and in other
    blocks, and the text before the first fence, because some replies have only the closing one.  A block that parses as
    Python and defines or reads something comes first; then one whose tag is Python; then one that is not blank; and of
    equals the last one in the reply.  A fence inside a triple-quoted string closes no block.
    """
    answer = re.sub(r"\r\n?", "\n", _THOUGHTS.sub("", reply))
    if _is_program(answer):
        return [answer.rstrip() + "\n"]
    hidden = _markdown_blocks(_QUOTED.sub(lambda string: string[0].translate(_HIDDEN), answer))
    blocks = [*_markdown_blocks(answer), *((tag, code.translate(_SHOWN)) for tag, code in hidden)]
    best_first = sorted(
        reversed(blocks),
        key=lambda block: (_is_program(block[1]), bool(_PYTHON_TAG.search(block[0])), bool(block[1].strip())),
        reverse=True,
    )
    return [code.rstrip() + "\n" if code.strip() else "" for _, code in best_first]


_COMMONMARK = MarkdownIt("commonmark").disable(["html_block", "inline", "text_join"])  # only blocks matter here
_THOUGHTS = re.compile(r"\A(?:\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|.*?</think>[ \t]*(?:\n|\Z))", re.DOTALL)
_PYTHON_TAG = re.compile(r"(?:^|[\s{])\.?(?:python|pypy|py)[\d.]*(?![\w.-])", re.IGNORECASE)
_QUOTED = re.compile(r"(\"{3}|'{3}).*?\1", re.DOTALL)
_HIDDEN, _SHOWN = str.maketrans("`~", "\ue060\ue07e"), str.maketrans("\ue060\ue07e", "`~")  # fences in strings


def _markdown_blocks(text: str, depth: int = 3) -> Iterator[tuple[str, str]]:
    """The tag and the content of each block of a text, and of the blocks within these, down to a `depth`; first comes
    the text before the first fence."""
    blocks = [token for token in _COMMONMARK.parse(text) if token.type in ("fence", "code_block")]
    fences = [block.map[0] for block in blocks if block.map and block.type == "fence"]
    yield "", "\n".join(text.split("\n")[: fences[0] if fences else None])
    for block in blocks:
        if block.type == "fence" and block.content.startswith(block.markup):
            yield block.info, ""  # opened twice: LiveCodeBench takes nothing from it, and its published grades say so
            continue
        if block.type == "fence":
            yield block.info, block.content
        if depth and re.search("```|~~~", block.content) and parsed(block.content) is None:
            yield from _markdown_blocks(block.content, depth - 1)


def _is_program(text: str) -> bool:
    """Whether a text parses as Python and defines or reads something."""
    module = parsed(text)
    return module is not None and any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and node.id in ("input", "open"))
        or (isinstance(node, ast.Attribute) and node.attr == "stdin")
        or (isinstance(node, ast.alias) and node.name in ("stdin", "fileinput"))
        for node in ast.walk(module)
    )


# ------------------------------------------------------------------------------------------------- splitting


def split_steps(code: str) -> list[Step]:
    """The steps of a program, so that `"".join(step.text for step in steps) == code`.

    One step a top-level function (a method, for a class `Solution`), with the blank lines after it.  Imports go with
    the first step; decorators, comments and other module code with the function that follows them; what follows the
    last function goes with the last.
    Every prefix of a program that parses, parses.  A program that does not parse is cut before the lines that open a
    top-level function; one without functions is a single step `<module>`; an empty one has no steps.
    """
    module = parsed(code)
    if module is None:
        found = list(_OPENING.finditer(code))
        names, cuts = [opening[1] for opening in found], [opening.start() for opening in found[1:]]
    else:
        names, cuts = _cuts_by_tree(module, code)
    bounds = [0, *cuts, len(code)]
    return [
        Step(name, code[start:end])
        for name, start, end in zip(names or ["<module>"], bounds[:-1], bounds[1:], strict=True)
        if code
    ]


_OPENING = re.compile(r"^(?:[ \t]*[@#].*\n)*(?:async\s+)?def\s+(\w+)", re.MULTILINE)


def _cuts_by_tree(module: ast.Module, code: str) -> tuple[list[str], list[int]]:
    """Names of the steps, and the places where each step but the last ends."""
    functions = []
    for node in module.body:
        members = node.body if isinstance(node, ast.ClassDef) and node.name == "Solution" else [node]
        functions += [f for f in members if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", code)  # the line ends that Python knows, and no others
    places = [0, *accumulate(map(len, lines))]
    names, cuts = [], []
    for function in functions[:-1]:
        end, column = function.end_lineno or 0, function.end_col_offset
        rest = lines[end - 1].encode()[column:].strip()
        if lines[end].strip() and rest.endswith(b"\\") and b"#" not in rest:
            continue  # a line continuation that runs on: the function stays with the next one
        while not lines[end].strip():
            end += 1
        names.append(function.name)
        cuts.append(places[end])
    return [*names, *(f.name for f in functions[-1:])], cuts


def parsed(code: str) -> ast.Module | None:
    """The syntax tree of a text; None if it does not parse as Python."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# ------------------------------------------------------------------------------------------------- sampling

TRIES = 8  # programs after which it is decided whether a problem says enough


@dataclass(frozen=True)
class Batch:
    """What a policy is asked at once: samples `known` … `samples` - 1 of a reply to each of `prompts`, which belong to
    `problems`.  `what` says what for, and `policy` which of the notebook's parameters holds the policy; `stop` are
    further texts that end a reply, which has at most `most` tokens.
    """

    what: str
    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    samples: int
    temperature: float
    policy: str = "policy"
    known: int = 0
    stop: tuple[str, ...] = ()
    most: int = 400

    def ask(self, policy: Policy) -> list[list[Completion]]:
        """The replies to each prompt."""
        n = max(self.samples - self.known, 0)
        return policy.sample(self.prompts, n, self.temperature, max_tokens=self.most, first=self.known, stop=self.stop)


def batch_of(
    what: str,
    problems: Sequence[Problem],
    samples: int,
    temperature: float,
    prompt: Callable[[Problem], Prompt] = cof_prompt,
) -> Batch:
    """The batch that asks for `samples` programs for each problem."""
    return Batch(what, problems, [prompt(p) for p in problems], samples, temperature)


def requests(
    train: Sequence[Problem],
    meta: Sequence[Problem],
    train_samples: int,
    meta_samples: int,
    compared: Sequence[str],
    temperature: float,
    **_others: object,
) -> list[Batch]:
    """All that chapter 1 asks of its policy, by the names of its parameters; others are passed over.

    Three batches: programs for the training problems, for the meta problems, and by the plain prompt for those that
    are `compared`.
    """
    return [
        batch_of("programs, train", train, train_samples, temperature),
        batch_of("programs, meta", meta, meta_samples, temperature),
        batch_of("plain prompt", named(train, compared), train_samples, temperature, plain_prompt),
    ]


def sample_programs(
    policy: Policy, sandbox: Sandbox, problems: Sequence[Problem], n: int, temperature: float = 0.8
) -> list[Program]:
    """`n` graded programs for each problem, in order of problem and sample; progress is shown."""
    return sample_batch(policy, sandbox, batch_of("programs", problems, n, temperature))


def sample_batch(policy: Policy, sandbox: Sandbox, batch: Batch) -> list[Program]:
    """The graded programs of a batch, in order of problem and sample; progress is shown."""
    written = [
        (p, i, reply)
        for p, replies in zip(batch.problems, batch.ask(policy), strict=True)
        for i, reply in enumerate(replies, batch.known)
    ]
    return graded(sandbox, written)


def graded(sandbox: Sandbox, written: Sequence[tuple[Problem, int, Completion]]) -> list[Program]:
    """The programs in replies, each with its problem and its number among the samples, with their verdicts."""
    codes = [extract_code(reply.text) for _, _, reply in written]
    verdicts = sandbox.grade([(p, code) for (p, _, _), code in zip(written, codes, strict=True)], progress=True)
    return [
        Program(
            problem=p.id,
            sample=i,
            code=code,
            steps=[step.text for step in split_steps(code)],
            passed=verdict.passed,
            verdict=verdict.kind,
            tokens=reply.tokens,
            logprob=reply.logprob,
        )
        for (p, i, reply), code, verdict in zip(written, codes, verdicts, strict=True)
    ]


def sample_well_specified(policy: Policy, sandbox: Sandbox, batch: Batch) -> list[Program]:
    """The graded programs of those problems of a batch that are `well_specified`; for the others the policy is asked
    no more than `TRIES` times."""
    tried = sample_batch(policy, sandbox, replace(batch, samples=min(batch.samples, TRIES)))
    kept = well_specified(batch.problems, tried)
    prompts = [prompt for p, prompt in zip(batch.problems, batch.prompts, strict=True) if p in kept]
    rest = sample_batch(policy, sandbox, replace(batch, problems=kept, prompts=prompts, known=TRIES))
    place = {p.id: k for k, p in enumerate(kept)}
    programs = [p for p in [*tried, *rest] if p.problem in place]
    return sorted(programs, key=lambda p: (place[p.problem], p.sample))


def well_specified(problems: Sequence[Problem], programs: Sequence[Program]) -> list[Problem]:
    """The problems without those of `codeio` that none of the first `TRIES` programs solves.

    Many of its tasks say too little about what is wanted.  The rule looks at no selector, and it is the same for every
    split; a task whose programs all fail for another reason goes as well.
    """
    solved = {p.problem for p in programs if p.passed and p.sample < TRIES}
    return [p for p in problems if p.source != "codeio" or p.id in solved]
