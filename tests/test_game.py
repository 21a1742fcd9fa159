"""The game deals mixed problems, keeps the score, hides the verdicts until a pick, and is drawn without a player."""

import itertools

import pytest

from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.show.game import LETTERS, Totals, deal, play, round_html, totals
from dreamprm_lib.study.rows import CandidateScores, Program


def problem(name):
    return Problem(name, f"Title of {name}", f"Add a < b, says {name}.", "easy", "test", (), ())


def program(name, sample, passed):
    code = f"print('{name}<{sample}')\n"
    return Program(name, sample, code, [code], passed, "passed" if passed else "wrong_answer", 5)


PROBLEMS = [problem(n) for n in ("mixed", "hopeless", "also")]
CANDIDATES = [
    *(program("mixed", k, k == 3) for k in range(6)),
    *(program("hopeless", k, False) for k in range(4)),
    *(program("also", k, k < 2) for k in range(3)),
]
SCORES = [CandidateScores("prm_cof", c.problem, c.sample, [0.2, 0.2 + 0.1 * c.sample]) for c in CANDIDATES]
ROUNDS = deal(PROBLEMS, CANDIDATES, SCORES)


def test_only_mixed_problems_are_dealt_each_with_both_outcomes():
    assert {r.problem.id for r in ROUNDS} == {"mixed", "also"}
    for r in ROUNDS:
        assert len(r.programs) == (4 if r.problem.id == "mixed" else 3)
        assert r.passed.any() and not r.passed.all()
        assert len({p.code for p in r.programs}) == len(r.programs)


def test_a_program_that_was_written_twice_is_dealt_once():
    twice = [*CANDIDATES, *(Program("also", k + 3, c.code, c.steps, c.passed, c.verdict, 5)
                            for k, c in enumerate(CANDIDATES[-3:]))]  # fmt: skip
    scores = [CandidateScores("prm_cof", c.problem, c.sample, [0.5]) for c in twice]
    (dealt,) = (r for r in deal(PROBLEMS, twice, scores, shown=8) if r.problem.id == "also")
    assert len(dealt.programs) == 3


def test_the_same_seed_deals_the_same_and_another_deals_otherwise():
    assert deal(PROBLEMS, CANDIDATES, SCORES) == ROUNDS
    assert any(deal(PROBLEMS, CANDIDATES, SCORES, seed=s) != ROUNDS for s in range(1, 5))


def test_scores_are_aggregated_and_the_best_is_the_machine_s_pick():
    for r in ROUNDS:
        assert r.scores == pytest.approx([0.2 + 0.05 * p.sample for p in r.programs])
        assert r.programs[r.machine].sample == max(p.sample for p in r.programs)
        last = deal(PROBLEMS, CANDIDATES, SCORES, rule="last")[ROUNDS.index(r)]
        assert last.scores == pytest.approx([0.2 + 0.1 * p.sample for p in r.programs])


def test_the_board_counts_and_tells_luck_by_enumeration():
    picks = [int(r.passed.argmax()) for r in ROUNDS]  # right in both rounds
    all_right = sum(
        all(r.passed[k] for r, k in zip(ROUNDS, hand, strict=True))
        for hand in itertools.product(*(range(len(r.programs)) for r in ROUNDS))
    ) / (len(ROUNDS[0].programs) * len(ROUNDS[1].programs))
    board = totals(ROUNDS, picks)
    assert (board.rounds, board.you) == (2, 2) and board.luck == pytest.approx(all_right)
    assert board.random == pytest.approx(1 / 4 + 2 / 3)
    assert board.prm == sum(bool(r.passed[r.machine]) for r in ROUNDS)
    wrong = [int(r.passed.argmin()) for r in ROUNDS]
    assert totals(ROUNDS, wrong).you == 0 and totals(ROUNDS, wrong).luck == pytest.approx(1)
    assert totals(ROUNDS, []) == Totals(0, 0, 0, 0.0, 1.0)


def test_verdicts_and_scores_are_hidden_until_a_pick():
    r = ROUNDS[0]
    before, after = round_html(r), round_html(r, 0)
    assert all(word not in before for word in ("passes", "fails", "score", "PRM"))
    assert after.count("✔ passes") == r.passed.sum() and after.count("✘ fails") == (~r.passed).sum()
    assert after.count("← you") == after.count("← PRM") == 1
    assert "&lt;" in before and "a < b" not in before


def test_a_game_is_played_by_buttons():
    box = play(ROUNDS)
    table, row, board = box.children
    *takes, onward = row.children
    assert [b.description for b in takes] == [f"Take {x}" for x in LETTERS[: len(takes)]]
    assert onward.disabled and not board.value
    takes[0].click()
    assert all(b.disabled for b in takes) and not onward.disabled
    assert "← you" in table.value and "After 1 of the rounds" in board.value
    onward.click()
    assert "Round 2 of 2" in table.value and "← you" not in table.value
    assert [b.disabled for b in takes] == [k >= len(ROUNDS[1].programs) for k in range(len(takes))]
    takes[1].click()
    assert onward.disabled and "After 2 of the rounds" in board.value


def test_without_a_player_the_rounds_are_drawn():
    shown = play(ROUNDS)._repr_mimebundle_()["text/html"]
    assert "data:image/png;base64," in shown and "2 rounds of the game: the PRM solves" in shown


def test_where_nothing_is_mixed_the_game_says_so():
    box = play(deal(PROBLEMS[1:2], CANDIDATES, SCORES))
    assert "nothing to choose" in box.children[0].value and "nothing to choose" in box.still
