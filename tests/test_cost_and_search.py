"""A beam search through a scripted tree of functions: what is kept, paid for, assembled and replayed is known."""

from dataclasses import replace

import numpy as np
import pytest

from dreamprm_lib import cost_and_search as cs
from dreamprm_lib.chain_of_functions import PREFILL, split_steps
from dreamprm_lib.cost_and_search import NEXT_FUNCTION, after, grade, search
from dreamprm_lib.engine import problems
from dreamprm_lib.engine.policy.completions import Completion, CompletionStore, Recording
from dreamprm_lib.engine.policy.endpoint import Endpoint
from dreamprm_lib.engine.policy.policy import Policy, Prompt
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.sandbox.judge import Sandbox
from dreamprm_lib.errors import InputError
from dreamprm_lib.study.rows import Program, SearchedProgram, read_rows, write_rows
from dreamprm_lib.test_time_scaling import Pool

ONE = (problems.Test("1\n", "1\n"),)
PROBLEM, OTHER = (Problem(name, name.title(), f"Do {name}.", "easy", "test", ONE, ONE) for name in ("p", "q"))

START = PREFILL.removeprefix("```python\n")
LEFT, RIGHT = (f'{START} go."""\n    {name}()\n\n\n' for name in ("left", "right"))
SAYS = {  # what the scripted model says after a text, as the server cuts it: two ways to begin, two ends for each
    START: [' go."""\n    left()\n\n', ' go."""\n    right()\n\n'],
    LEFT: ["def left():\n    print(0)\n\n\nmain()", "def left():\n    print(2)\n\n\nmain()"],
    RIGHT: ["def right():\n    print(3)\n\n\nmain()", "def right():\n    print(1)\n\n\nmain()"],
}
BEST = RIGHT + SAYS[RIGHT][1] + "\n"
VALUE = {"print(0)": 0.1, "print(1)": 0.9, "print(2)": 0.2, "print(3)": 0.3, "left()": 0.6, "right()": 0.5}


def reply(body):
    said = SAYS[body["prompt"].rpartition("assistant\n```python\n")[2]]
    return [said[i % len(said)] for i in range(body["n"])]


class Judge:
    """Scores each function by the first phrase of `VALUE` in it, and keeps what it was asked."""

    def __init__(self):
        self.seen = []

    def score(self, problem, programs):
        self.seen += programs
        return [[next(v for k, v in VALUE.items() if k in s.text) for s in split_steps(code)] for code in programs]


@pytest.fixture
def policy(fake_server, store):
    return Policy(Endpoint("m", fake_server(reply).base_url), store)


def test_a_beam_finds_the_program_that_greedy_search_misses(policy):
    (greedy,), _ = search(policy, Judge(), [PROBLEM], width=1, branches=2)
    (beam,), _ = search(policy, Judge(), [PROBLEM], width=2, branches=2)
    assert greedy.programs[0].text == LEFT + SAYS[LEFT][1] + "\n"
    assert beam.programs[0].text == BEST and beam.programs[0].score == pytest.approx(0.7)
    assert [state.text for state in beam.levels[0]] == [LEFT, RIGHT] and len(beam.levels) == 2


def test_width_and_branches_of_one_are_one_sampled_program(policy):
    (alone,), _ = search(policy, Judge(), [PROBLEM], width=1, branches=1)
    assert [state.text for state in alone.programs] == [LEFT + SAYS[LEFT][0] + "\n"]
    assert policy.asked == 2


def test_each_state_is_one_and_every_completion_is_paid_for(policy):
    judge = Judge()
    (beam,), _ = search(policy, judge, [PROBLEM], width=2, branches=2)
    # Four samples give two first functions; each is continued twice.  The fake server counts words.
    assert policy.asked == 4 + 2 * 2 and judge.seen[:2] == [LEFT, RIGHT]
    assert beam.tokens == 4 * len(["go.", "left()"]) + 4 * len(["def", "left():", "print(0)", "main()"])


def test_a_finished_program_keeps_its_place_and_its_score(policy, monkeypatch):
    monkeypatch.setitem(SAYS, START, [' go."""\n    left()\n\n\nmain()', SAYS[START][1]])
    judge, whole = Judge(), LEFT + "main()\n"
    (beam,), _ = search(policy, judge, [PROBLEM], width=2, branches=2)
    assert [state.text for state in beam.kept] == [BEST, whole] and judge.seen.count(whole) == 1
    assert len(beam.programs) == 3  # the dropped one too: it is paid for


def test_levels_of_all_problems_are_asked_together(policy, monkeypatch):
    asked = []
    sample = policy.sample

    def counted(prompts, n, **rest):
        asked.append((len(prompts), n, rest["stop"]))
        return sample(prompts, n, **rest)

    monkeypatch.setattr(policy, "sample", counted)
    search(policy, Judge(), [PROBLEM, OTHER], width=2, branches=2)
    assert asked == [(2, 4, (NEXT_FUNCTION,)), (4, 2, (NEXT_FUNCTION,))]


def test_what_is_open_at_the_greatest_depth_counts_as_finished(policy):
    (shallow,), _ = search(policy, Judge(), [PROBLEM], width=2, branches=2, depth=1)
    assert [state.text for state in shallow.programs] == [LEFT, RIGHT]


# ------------------------------------------------------------------------------------------------- replies


@pytest.mark.parametrize(
    "text, finish, program, finished",
    [
        ("def a():\n    pass\n\n", "stop", "def a():\n    pass\n\n\n", False),  # cut before "\ndef "
        ("def a():\n    pass\n", "stop", "def a():\n    pass\n\n", False),  # the same, one empty line in between
        ("import re\n", "stop", "import re\n\n", False),
        ("def a():\n    pass\n\n\nN = 3\n\n", "stop", "def a():\n    pass\n\n\nN = 3\n\n\n", False),
        ("def a():\n    pass", "stop", "def a():\n    pass\n", True),  # the fence, or the end of the text
        ("def a():\n    pass\n\n\nmain()", "stop", "def a():\n    pass\n\n\nmain()\n", True),
        ("def a():\n    pass\n\n\nmain()\n\n", "stop", "def a():\n    pass\n\n\nmain()\n", True),
        ("def a():\n    pass\n\nif 1:\n    a()\n\n", "stop", "def a():\n    pass\n\nif 1:\n    a()\n", True),
        ("def a():\n    pass\n\n", "length", "def a():\n    pass\n", True),
        ("def a(:\n    pass\n\n", "stop", "def a(:\n    pass\n", True),
        ("def a():\n    pass\n```\nThis\n", "stop", "def a():\n    pass\n", True),
        ("\n", "stop", "", True),
    ],
)
def test_whether_a_program_goes_on_is_told_by_its_text(text, finish, program, finished):
    assert after(Completion("```python\n" + text, 1, finish)) == (program, finished)


# ------------------------------------------------------------------------------------------------- requests, replays


def test_a_further_stop_makes_another_request_and_none_leaves_it_as_it_was(policy, tmp_path):
    prompt = Prompt((("user", "Count."),), prefill="```python\nx = ")
    plain = policy.request(prompt, 0.8, 0.95, 400)
    assert plain.digest == "e4c5f839869fea65ac1afe892d95a1f5fc3c2a7e96a8c6c1be5b5db20dc91820"
    assert policy.request(prompt, 0.8, 0.95, 400, (NEXT_FUNCTION,)).stop == ("\n```", "\ndef ")


@pytest.fixture
def recorded(policy):
    """The rows of a search for both problems, and the recording that it leaves."""
    searches, left_out = search(policy, Judge(), [PROBLEM, OTHER], width=2, branches=2)
    assert not left_out
    return searches, Recording(policy.served, {})


def offline(recording, tmp_path):
    return Policy(Endpoint("m"), CompletionStore(tmp_path / "empty.sqlite"), [recording], offline=True)


def test_a_replay_gives_the_same_bytes(recorded, tmp_path):
    searches, recording = recorded
    again, left_out = search(offline(recording, tmp_path), Judge(), [PROBLEM, OTHER], width=2, branches=2)
    with Sandbox(workers=1) as sandbox:
        for name, found in (("first", searches), ("again", again)):
            write_rows(tmp_path / name, grade(sandbox, [PROBLEM, OTHER], found))
    assert not left_out and (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    rows = [row for row in read_rows(tmp_path / "again", SearchedProgram) if row.problem == "p"]
    assert [(row.rank, row.passed) for row in rows] == [(0, True), (1, False), (2, False), (3, False)]
    assert rows[0].code == BEST and rows[0].scores == [0.5, 0.9] and rows[0].levels == 2


def test_offline_a_problem_that_was_not_recorded_is_left_out_and_named(recorded, tmp_path):
    searches, recording = recorded
    gone = next(d for d, (r, _) in recording.rows.items() if "Do p." in r.prompt and r.prompt.endswith(RIGHT))
    rows = {digest: row for digest, row in recording.rows.items() if digest != gone}
    found, left_out = search(offline(Recording(rows, {}), tmp_path), Judge(), [PROBLEM, OTHER], width=2, branches=2)
    assert left_out == ["p"] and found == searches[1:]
    # Another beam, that never asks for it, goes through.
    assert search(offline(Recording(rows, {}), tmp_path), Judge(), [PROBLEM], width=1, branches=2)[1] == []


@pytest.mark.parametrize("wrong", [{"width": 0}, {"branches": 0}, {"depth": 0}, {"prefill": False}])
def test_what_cannot_be_searched_is_refused(store, wrong):
    endpoint = Endpoint("o", prefill=wrong.pop("prefill", True))
    with pytest.raises(InputError, match="1 or more" if wrong else "prefill"):
        search(Policy(endpoint, store), Judge(), [PROBLEM], **wrong)


# ------------------------------------------------------------------------------------------------- against best-of-N


def test_best_of_a_mean_number_mixes_the_two_beside_it():
    scores, passed = [0.9, 0.1, 0.5], [True, False, False]
    # Best-of-1 is 1/3, best-of-2 is 2/3, best-of-3 is 1.
    assert cs.best_of_mean(scores, passed, 2) == pytest.approx(2 / 3)
    assert cs.best_of_mean(scores, passed, 2.25) == pytest.approx(0.75 * 2 / 3 + 0.25)
    assert cs.best_of_mean(scores, passed, 3) == 1.0
    with pytest.raises(InputError):
        cs.best_of_mean(scores, passed, 0.5)


@pytest.fixture
def searched():
    """Problem a: candidates of 10 tokens, a search of 15 (N = 1.5), a right pick.  Problem b: candidates of 20, 30 and
    40 tokens, a search of 200 (N = 6.7, and the pool ends at 3), a wrong pick before a right program."""
    right = [np.array([True, False, False]), np.array([False, True, False])]
    scores = {"random": [np.zeros(3)] * 2, "good": [ok.astype(float) for ok in right]}
    pool = Pool([replace(PROBLEM, id=name) for name in "ab"], right, scores | {"oracle": scores["good"]})
    tokens = {"a": [10, 10, 10], "b": [20, 30, 40]}
    candidates = [
        Program(name, i, "x\n", ["x\n"], False, "passed", many)
        for name, each in tokens.items()
        for i, many in enumerate(each)
    ]

    def row(problem, rank, passed, paid):
        return SearchedProgram(problem, rank, "x\n", ["x\n"], [0.5], 0.5, passed, "", paid, 2)

    return pool, candidates, [row("a", 0, True, 15), row("b", 0, False, 200), row("b", 1, True, 200)]


def test_a_search_meets_best_of_n_at_equal_tokens(searched):
    assert cs.equal_tokens(*searched).tolist() == [1.5, 3.0]
    table = cs.search_differences(*searched, method="good", draws=200)
    assert table.method.tolist() == [cs.SEARCH, cs.SEARCH, cs.SEARCH_ANY]
    assert table.baseline.tolist() == ["good", "random", "oracle"]
    # `good` at N = 1.5 solves a with (1/3 + 2/3) / 2, and b at N = 3 always; `random` solves each with 1/3.
    assert table.difference.tolist() == pytest.approx([(0.5 - 1) / 2, (2 / 3 - 1 / 3) / 2, 0.5 / 2])
    # Problem a: solved, against chances of 1/2, 1/3 and 1/2; b: the pick fails and a program passes, against 1, 1/3, 1.
    assert table.wins.tolist() == [1, 1, 1] and table.losses.tolist() == [1, 1, 0]
    assert table.verdict[0].startswith("`beam search` ")


def test_the_curve_of_a_search_has_its_tokens(searched):
    curve = cs.search_curve(*searched, draws=200)
    assert curve[curve.method == "good"].tokens.tolist() == [20, 40, 60]  # a candidate costs 10 or 30
    points = curve[curve.n.isna()].set_index("method")
    assert points.tokens.tolist() == [107.5, 107.5]
    assert points.pass_rate.to_dict() == {cs.SEARCH: 0.5, cs.SEARCH_ANY: 1.0}
