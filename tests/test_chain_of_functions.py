"""Splitting is lossless, prefixes of programs parse, and steps lie where a reader would put them."""

import ast
import hashlib
import time
from collections import Counter
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_lib.chain_of_functions import (
    cof_prompt,
    extract_code,
    plain_prompt,
    requests,
    sample_well_specified,
    split_steps,
    worked_example,
)
from dreamprm_lib.engine.policy.completions import Completion
from dreamprm_lib.engine.policy.policy import render_chatml
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.engine.sandbox.judge import Sandbox

PROGRAM = '''import sys
from math import gcd

# reads and prints
def main():
    """Strategy: all."""
    def inner():
        return 1
    print(helper(int(input())))


LIMIT = 3  # of the helper

@staticmethod
# why not
def helper(n):
    return n + LIMIT

async def last():
    pass

if __name__ == "__main__":
    main()
'''


def texts(code):
    return [step.text for step in split_steps(code)]


def test_steps_lie_where_a_reader_would_put_them():
    steps = split_steps(PROGRAM)
    assert [s.name for s in steps] == ["main", "helper", "last"]
    assert steps[0].text.startswith("import sys") and steps[0].text.endswith("print(helper(int(input())))\n\n\n")
    assert steps[1].text == (
        "LIMIT = 3  # of the helper\n\n@staticmethod\n# why not\ndef helper(n):\n    return n + LIMIT\n\n"
    )
    assert steps[2].text.endswith('if __name__ == "__main__":\n    main()\n')


@pytest.mark.parametrize("code, names", [("", []), ("print(1)\n", ["<module>"]), ("\n\n", ["<module>"])])
def test_programs_without_functions(code, names):
    assert [s.name for s in split_steps(code)] == names


def test_broken_code_is_cut_before_the_lines_that_open_a_function():
    code = "import re\ndef main():\n    print('a\n\n# helps\n@cache\ndef helper(:\n    return 1\n\nmain()\n"
    steps = split_steps(code)
    assert [s.name for s in steps] == ["main", "helper"]
    assert steps[1].text.startswith("# helps\n@cache\ndef helper")
    assert "".join(s.text for s in steps) == code


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_those_that_python_knows(end):
    code = f'def a():{end}    x = "\x0c \u2028"{end}{end}def b():{end}    pass'
    assert "".join(texts(code)) == code
    assert [s.name for s in split_steps(code)] == ["a", "b"]


def parses(code):
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


FRAGMENTS = [
    "def f():\n    pass\n",
    "def g(x): return x\n",
    "async def h():\n    '''doc\n\ndef no(): pass\n'''\n",
    "@dec\ndef k():\n    return [\n1]\n",
    "class Solution:\n    def m(self):\n        pass\n    y = 1\n    def n(self): pass\n",
    "class Other:\n    def m(self):\n        pass\n",
    "# comment\n",
    "\n",
    "x = 1\n",
    "if x:\n    def hidden():\n        pass\n",
    "s = 'é\u2028ü'\n",
    "def c(): return 1 \\\n\n",
    "def c(): return 1; \\\n# on\n",
    "def c(): return 'é'  # \\\n",
    "def t():\n    return '''\\\n'''\n",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
@settings(max_examples=200, deadline=None)
def test_every_prefix_of_a_program_parses_and_nothing_is_lost(code):
    assert parses(code)
    steps = split_steps(code)
    assert "".join(s.text for s in steps) == code
    assert all(s.text for s in steps)
    assert all(parses(p) for p in accumulate(texts(code)))


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
@settings(max_examples=200, deadline=None)
def test_a_function_ends_a_step_if_and_only_if_the_text_up_to_it_parses(code):
    functions = [
        node
        for outer in ast.parse(code).body
        for node in (outer.body if isinstance(outer, ast.ClassDef) and outer.name == "Solution" else [outer])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = code.split("\n")
    open_ends = [
        f
        for f in functions[:-1]
        if parses("\n".join(lines[: f.end_lineno]) + "\n" + "\n" * (not lines[f.end_lineno].strip()))
    ]
    assert [s.name for s in split_steps(code)] == [f.name for f in open_ends + functions[-1:]] or not functions


@pytest.mark.parametrize(
    "function",
    [
        "def f{}(x):\n    y = x + 1\n    return y\n\n",
        "def f{}(x):\n    y = x + 1\n    return y  # \\\n\n",
        "@cache\ndef f{}(x): return x \\\n\n# next\n",
    ],
)
def test_the_time_of_a_split_is_linear(function):
    code = "".join(function.format(k) for k in range(10_000))  # 40,000 lines
    started = time.process_time()
    assert len(split_steps(code)) == 10_000
    assert time.process_time() - started < 5


@given(st.text(alphabet="def f():\n\r\t x@#\"'\\\x0c\u2028", max_size=80))
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_in_any_text(code):
    assert "".join(texts(code)) == code


PLAIN = "import sys\n\nn = int(sys.stdin.readline())\n\nprint(n)\n"
QUOTING = (
    'def main():\n    """Strategy: as in\n\n    ```\n    1 2\n    ```\n    """\n    print("```", input())\n\n\nmain()\n'
)
DOCUMENTED = '"""Example:\n```\n1 2\n```\n"""\nprint(input())\n'
CODE = pytest.mark.parametrize("code", [PLAIN, QUOTING, DOCUMENTED])


@CODE
@pytest.mark.parametrize(
    "reply",
    [
        "{}",
        "```python\n{}",  # cut short, or ended by the stop text
        "```Python3\n{}```\nDone.",
        '```python title="main.py"\n{}```\nDone.',
        "```{{.numberLines .python}}\n{}```\nDone.",
        "````python\n{}````\nDone.",
        "~~~python\n{}~~~\nDone.",
        "{}```",
        "{}```\n\nThis program reads a number.",
        "<think>\nPerhaps\n```python\ndef f():\n    pass\n```\n</think>\n\n```python\n{}```",
        "Perhaps\n```python\ndef f():\n    pass\n```\n</think>\n\n```python\n{}```\nDone.",
        "<answer>\n```python\n{}```\n</answer>",
        "Install it:\n```bash\npip install numpy\n```\nThen:\n```python\n{}```",
        "```python\n{}```\nRun it:\n```sh\npython main.py < in.txt\n```\nWith the input\n```\n3\n```\nit prints 3.",
        "A draft:\n```python\ndef main():\n    pass\n```\nBetter:\n```python\n{}```",
        "In C:\n```c\nint main() {{ return 0; }}\n```\nIn Python:\n```py\n{}```",
        '```json\n{{"n": 1}}\n```\n```\n{}```',
        "````markdown\nHere:\n\n~~~python\n{}~~~\n````",
    ],
)
def test_the_program_of_a_reply_is_found_in_every_form(reply, code):
    assert extract_code(reply.format(code)) == code
    assert extract_code(reply.format(code).replace("\n", "\r\n")) == code


@CODE
@pytest.mark.parametrize(
    "opening, by",
    [
        ("1. Do this:\n\n", "   "),
        ("- So:\n\n", "    "),
        ("", "> "),
        ("Text.\n\n", "    "),
    ],
)
def test_a_fence_in_a_list_or_in_a_quote_is_read(opening, by, code):
    quoted = "".join(by + line for line in f"```python\n{code}```\n".splitlines(keepends=True))
    assert extract_code(opening + quoted) == code


@pytest.mark.parametrize(
    "reply, code",
    [
        ("Sure:\n```py\nx = 1\n```\n```\nother\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2\n"),
        ("```text\nmain(\n```\n```python\nmain(\n```\nDone", "main(\n"),
        ("I would print the sum.", "I would print the sum.\n"),
        ("```python\n```", ""),
        ("```python\n```python\nx = 1\n```\n```", ""),
        ("<think>\nPerhaps\n```python\nx = 1\n```", ""),
        ("", ""),
    ],
)
def test_what_is_no_clear_program_is_taken_by_the_stated_order(reply, code):
    assert extract_code(reply) == code


@given(st.text(alphabet="`~> -\n\"'#1.\tdf():", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_reply_has_a_program_or_none(reply):
    code = extract_code(reply)
    assert code == "" or (code.strip() and code.endswith("\n"))


def test_prompts_that_recordings_answer_stay_as_they_are():
    (problem,) = (p for p in load_problems("starter") if p.id == "collatz-peak")
    digest = hashlib.sha256(render_chatml(cof_prompt(problem)).encode()).hexdigest()
    assert digest == "e25a67e0d4a1acc66662794e378cbba4474557a5ec8f4a9b75496304ff5334cd"


@pytest.mark.parametrize(
    "starter_code, prefill",
    [
        ("def f(a, b):", '```python\ndef f(a, b):\n    """Strategy: call a helper function'),
        ("class Solution:\n    def f(self, a):\n        ", "```python\nclass Solution:\n    def f(self, a):\n"
         '        """Strategy: call a helper function'),
        ('def f(a):\n    """Double."""\n', "```python\n"),
    ],
)  # fmt: skip
def test_a_function_is_asked_for_in_its_own_form(starter_code, prefill):
    problem = replace(worked_example(load_problems("humaneval")[0]), starter_code=starter_code, entry_point="f")
    chain, plain = cof_prompt(problem), plain_prompt(problem)
    assert chain.prefill == prefill and chain.messages[-1][1].endswith(starter_code.rstrip())
    for said in (chain.messages[0][1], plain.messages[0][1]):
        assert "function" in said and "input" not in said and "print" not in said


def test_the_worked_function_is_a_chain_that_passes_and_opens_as_the_prefill_does():
    example = worked_example(load_problems("humaneval")[0])
    first, *helpers = split_steps(example.reference.strip())
    assert first.name == "main_solution" and len(helpers) >= 2
    assert f"```python\n{example.reference.strip()}".startswith(cof_prompt(example).prefill)
    with Sandbox(workers=1) as sandbox:
        (verdict,) = sandbox.grade([(replace(example, tests=example.samples + example.tests), example.reference)])
    assert verdict.passed


def test_what_a_chapter_asks_is_listed_and_a_task_that_says_too_little_is_asked_no_more():
    first, second, third = load_problems("starter")[:3]
    vague = replace(second, source="codeio")
    batches = requests([first, vague], [third], 9, 2, [first.id], 0.5, outputs="passed over")
    assert [(b.what, len(b.prompts), b.samples) for b in batches] == [
        ("programs, train", 2, 9), ("programs, meta", 1, 2), ("plain prompt", 1, 9),
    ]  # fmt: skip
    assert batches[0].prompts == [cof_prompt(first), cof_prompt(vague)] and batches[2].prompts == [plain_prompt(first)]

    asked: Counter = Counter()

    class Wrong:
        def sample(self, prompts, n, temperature, first, **_rest):
            asked.update(prompt.messages[-1] for prompt in prompts for _ in range(first, first + n))
            return [[Completion("print(1)", 1, "stop")] * n for _ in prompts]

    with Sandbox(workers=1) as sandbox:
        programs = sample_well_specified(Wrong(), sandbox, batches[0])
    assert [(p.problem, p.sample) for p in programs] == [(first.id, k) for k in range(9)]
    assert sorted(asked.values()) == [8, 9]
