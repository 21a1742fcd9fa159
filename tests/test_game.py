"""The game deals mixed problems, keeps the score, hides the verdicts until a pick, and is drawn without a player."""

import itertools
from dataclasses import replace

import pytest

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.show.game import board, deal, play, round_html
from dreamprm_lib.study.rows import CandidateScores, Program


def program(name, sample, passed):
    code = f"print('{name}<{sample}')\n"
    return Program(name, sample, code, [code], passed, "passed" if passed else "wrong_answer", 5)


PROBLEMS = [
    Problem(n, f"Title of {n}", f"Add a < b, says {n}.", "easy", "test", (), ()) for n in ("mixed", "hopeless", "also")
]
CANDIDATES = [
    *(program("mixed", k, k == 3) for k in range(6)),
    *(program("hopeless", k, False) for k in range(4)),
    *(program("also", k, k < 2) for k in range(3)),
]
CANDIDATES += [replace(c, sample=c.sample + 3) for c in CANDIDATES[-3:]]  # the same programs, written twice
SCORES = [CandidateScores("prm_cof", c.problem, c.sample, [0.2, 0.2 + 0.1 * c.sample]) for c in CANDIDATES]


def dealt(rule="mean", seed=0, problems=PROBLEMS):
    return deal(problems, CANDIDATES, SCORES, "prm_cof", rule, seed)


ROUNDS = dealt()


def test_mixed_problems_alone_are_dealt_by_the_seed_each_with_both_outcomes_and_no_program_twice():
    assert dealt() == ROUNDS and any(dealt(seed=s) != ROUNDS for s in range(1, 5))
    assert {r.problem.id for r in ROUNDS} == {"mixed", "also"}
    for r in ROUNDS:
        assert len(r.programs) == (4 if r.problem.id == "mixed" else 3)
        assert r.passed.any() and not r.passed.all()
        assert len({p.code for p in r.programs}) == len(r.programs)


def test_scores_are_aggregated_and_the_best_is_the_machine_s_pick():
    for r, last in zip(ROUNDS, dealt("last"), strict=True):
        assert r.scores == pytest.approx([0.2 + 0.05 * p.sample for p in r.programs])
        assert r.programs[r.machine].sample == max(p.sample for p in r.programs)
        assert last.scores == pytest.approx([0.2 + 0.1 * p.sample for p in r.programs])


def test_the_board_counts_and_tells_luck_by_enumeration():
    hands = list(itertools.product(*(r.passed for r in ROUNDS)))
    luck = sum(all(hand) for hand in hands) / len(hands)  # right in both rounds
    prm = sum(bool(r.passed[r.machine]) for r in ROUNDS)
    others = f"PRM {prm}, a random picker {1 / 4 + 2 / 3:.1f} in the mean. It does at least as well as you in "
    right, wrong = [int(r.passed.argmax()) for r in ROUNDS], [int(r.passed.argmin()) for r in ROUNDS]
    assert board(ROUNDS, right) == f"After 2 of the rounds: <b>you 2</b>, {others}{luck:.0%} of such games."
    assert board(ROUNDS, wrong) == f"After 2 of the rounds: <b>you 0</b>, {others}100% of such games."
    assert "After 0 of the rounds: <b>you 0</b>, PRM 0, a random picker 0.0" in board(ROUNDS, [])


def test_verdicts_and_scores_are_hidden_until_a_pick():
    r = ROUNDS[0]
    before, after = round_html(r), round_html(r, 0)
    assert all(word not in before for word in ("passes", "fails", "score", "PRM"))
    assert after.count("✔ passes") == r.passed.sum() and after.count("✘ fails") == (~r.passed).sum()
    assert after.count("← you") == after.count("← PRM") == 1
    assert "&lt;" in before and "a < b" not in before


def test_a_game_is_played_by_buttons():
    table, row, totals = play(ROUNDS).children
    *takes, onward = row.children
    assert [b.description for b in takes] == ["Take A", "Take B", "Take C", "Take D"]
    assert onward.disabled and not totals.value
    takes[0].click()
    assert all(b.disabled for b in takes) and not onward.disabled
    assert "← you" in table.value and "After 1 of the rounds" in totals.value
    onward.click()
    assert "Round 2 of 2" in table.value and "← you" not in table.value
    assert [b.disabled for b in takes] == [k >= len(ROUNDS[1].programs) for k in range(4)]
    takes[1].click()
    assert onward.disabled and "After 2 of the rounds" in totals.value


def test_without_a_player_the_rounds_are_drawn_and_where_nothing_is_mixed_the_game_says_so():
    shown = play(ROUNDS)._repr_mimebundle_()["text/html"]
    assert "data:image/png;base64," in shown and "2 rounds of the game: the PRM solves" in shown
    box = play(dealt(problems=PROBLEMS[1:2]))
    assert "nothing to choose" in box.children[0].value and "nothing to choose" in box.still
