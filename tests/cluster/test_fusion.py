"""Fusion as a policy: what is read from answers, what they weigh, and which one wins."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.balancer import Balancer
from llambo9p.cluster.election import Spread
from llambo9p.cluster.fusion import (
    STRATEGIES,
    Vote,
    aggregation_prompt,
    extract,
    fuse,
    last_number,
    poll,
)
from llambo9p.engine.base import Request
from llambo9p.errors import InvalidArgument, NoConsensus

PURE = tuple(strategy for strategy in STRATEGIES if strategy != "aggregate")


@dataclass(frozen=True)
class Said:
    text: str
    mean_logprob: float | None = None


@dataclass(frozen=True)
class Bare:
    text: str


def said(**logprobs: float) -> list[Said]:
    """`_12=-0.5` says 12."""
    return [Said(text.removeprefix("_"), logprob) for text, logprob in logprobs.items()]


answers = st.builds(
    Said,
    st.sampled_from(["7", "It is 7.", "Answer: 8", "no", "Yes, it is.", "-3.50", "a\nb", "", " "])
    | st.text(max_size=60),
    st.none() | st.floats(-50, 0) | st.sampled_from([-math.inf, math.nan, -0.5]),
)
responses = st.lists(answers, min_size=1, max_size=9)


# -- extract ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12", "12"),
        ("The sum is 5 + 7 = 12.", "12"),
        ("1,234,567.50 dollars", "1234567.5"),
        ("It is -7", "-7"),
        ("10-3", "3"),
        ("-0.0", "0"),
        ("007", "7"),
        ("$42", "42"),
        ("50%", "50"),
        ("(3,5)", "5"),
        ("Yes, 3 is more than 2.", "yes"),
        ("NO!", "no"),
        ("**True**", "true"),
        ("Nobody knows", "nobody knows"),
        ("The Amazon.", "amazon"),
        ("the  amazon", "amazon"),
        ("We have 3 and 4, so the answer is 7. Check: 4", "4"),
        ("We have 3 and 4.\nThe answer is 7.\nWas it 5?", "7"),
        ("Answer: Paris\n(population 2 million)", "paris"),
        ("the answer is: no", "no"),
        ("5 apples\n#### 18", "18"),
        (r"so 2 + 2 = \boxed{4} and 5", "4"),
        ("answer: 1\nanswer: 2", "2"),
        ("I can answer that", "i can answer that"),
        ("The answer is\n", "answer is"),
        ("a line\nand another", None),
        ("This is a sentence that says nothing one could count", None),
        ("", None),
        ("...", None),
        ("the", None),
    ],
)
def test_what_a_text_comes_to(text, answer):
    assert extract(text) == answer


@given(st.text())
def test_whatever_is_extracted_are_words_between_single_spaces(text):
    answer = extract(text)
    if answer is not None:
        assert answer and answer == " ".join(answer.split())


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_is_read_as_what_it_is_with_or_without_commas(number):
    for shown in (f"{number:f}", f"{number:,f}"):
        found = last_number(f"That makes {shown}, I think.")
        assert found is not None and float(found) == float(number)


# -- what every strategy keeps ------------------------------------------------------


@pytest.mark.parametrize("strategy", PURE)
@given(responses, st.randoms(use_true_random=False))
def test_the_order_of_the_responses_means_nothing(strategy, asked, rng: random.Random):
    shuffled = rng.sample(range(len(asked)), len(asked))
    try:
        fused = fuse(asked, strategy)
    except NoConsensus as e:
        with pytest.raises(NoConsensus) as other:
            fuse([asked[i] for i in shuffled], strategy)
        assert str(other.value) == str(e)
        return
    other = fuse([asked[i] for i in shuffled], strategy)
    assert (other.text, other.answer, other.abstained) == (
        fused.text, fused.answer, fused.abstained
    )  # fmt: skip
    assert [other.votes[place] for place in range(len(asked))] == [
        fused.votes[i] for i in shuffled
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(responses)
def test_weights_sum_to_1_and_who_abstains_has_none(strategy, asked):
    votes = poll(asked, strategy)
    counted = any(vote.answer is not None for vote in votes)
    assert math.fsum(vote.weight for vote in votes) == pytest.approx(1 if counted else 0)
    assert all(vote.weight == 0 for vote in votes if vote.answer is None)
    assert all(0 <= vote.weight <= 1 for vote in votes)


@pytest.mark.parametrize("strategy", PURE)
@given(answers, st.integers(1, 5))
def test_those_who_say_the_same_agree(strategy, answer, count):
    try:
        fused = fuse([answer] * count, strategy)
    except NoConsensus:
        return
    assert fused.abstained == 0
    if strategy != "weighted-average":  # which shows 12 digits
        assert fused.text == answer.text
        assert fused.agreement == pytest.approx(1)


@pytest.mark.parametrize("strategy", ["majority-vote", "confidence-weighted", "best-of-n"])
@given(responses)
def test_the_text_is_that_of_a_response_that_voted_for_it(strategy, asked):
    try:
        fused = fuse(asked, strategy)
    except NoConsensus:
        return
    assert fused.index is not None and asked[fused.index].text == fused.text
    assert fused.votes[fused.index].answer == fused.answer
    assert 0 < fused.agreement <= 1 + 1e-9


@pytest.mark.parametrize("strategy", ["majority-vote", "confidence-weighted"])
@given(responses, st.integers(0, 8))
def test_one_more_vote_for_the_winner_does_not_change_it(strategy, asked, copies):
    try:
        fused = fuse(asked, strategy)
    except NoConsensus:
        return
    assert fused.index is not None
    assert fuse(asked + [asked[fused.index]] * copies, strategy).answer == fused.answer


# -- each strategy ------------------------------------------------------------------


def test_majority_vote_counts_and_not_how_sure_they_are():
    fused = fuse([Said("7", -9), Said("It is 7.", -8), Said("8", -0.1), Said("x\ny", -0.1)])
    assert (fused.text, fused.answer, fused.index) == ("It is 7.", "7", 1)
    third = pytest.approx(1 / 3)
    assert fused.votes == (Vote("7", third), Vote("7", third), Vote("8", third), Vote(None, 0))
    assert fused.agreement == pytest.approx(2 / 3)
    assert fused.abstained == 1


def test_majority_vote_needs_nothing_but_texts():
    assert fuse([Bare("no"), Bare("Yes."), Bare("yes")], "majority-vote").text == "yes"


def test_ties_go_to_the_more_probable_and_then_to_the_first_in_order():
    assert fuse(said(_8=-1.0, _7=-2.0)).answer == "8"
    assert fuse([Bare("8"), Bare("7")]).answer == "7"
    assert fuse([Bare("b"), Bare("a thing"), Bare("c")]).answer == "b"


def test_confidence_weighted_sums_probabilities_for_each_answer():
    asked = [Said("8", math.log(0.9)), Said("7", math.log(0.5)), Said("7.0", math.log(0.2))]
    fused = fuse(asked, "confidence-weighted")
    assert fused.answer == "8"
    assert fused.agreement == pytest.approx(0.9 / 1.6)
    assert fuse(asked, "majority-vote").answer == "7"
    assert fuse([*asked, Said("7", math.log(0.3))], "confidence-weighted").answer == "7"


def test_best_of_n_is_the_most_probable_text_however_often_others_come():
    asked = [Said("a long\nstory", -0.2), *[Said("short", -0.3)] * 3]
    fused = fuse(asked, "best-of-n")
    assert (fused.text, fused.index) == ("a long\nstory", 0)


def test_weighted_average_is_of_numbers():
    asked = [Said("10", math.log(0.6)), Said("It is 20.", math.log(0.2)), Said("many", -0.1)]
    fused = fuse(asked, "weighted-average")
    assert (fused.text, fused.index, fused.abstained) == ("12.5", None, 1)
    assert fuse([Said("42", -0.3), Said("42", -0.1)] * 3, "weighted-average").text == "42"
    assert fuse([Said("9" * 400, -0.1), Said("3", -5)], "weighted-average").text == "3"


def test_responses_so_improbable_that_exp_is_0_are_still_compared():
    assert fuse(said(_1=-5000.0, _2=-5001.0), "confidence-weighted").answer == "1"


@pytest.mark.parametrize(
    ("asked", "strategy", "minimum", "reason"),
    [
        ([], "majority-vote", 1, "majority-vote: 0 of 0 answers can be counted, 1 must be"),
        (said(_1=-1.0), "majority-vote", 2, "1 of 1 answers can be counted, 2 must be; it needs a"),
        ([Bare("1")], "confidence-weighted", 1, "0 of 1 .* yes or no, .* and logprobs"),
        ([Bare("1"), Said("2", -1)], "best-of-n", 2, "1 of 2 .*; it needs logprobs"),
        ([Said("none", -1)], "weighted-average", 1, "0 of 1 .* needs a number in each"),
    ],
)
def test_too_few_that_can_be_counted_are_an_error(asked, strategy, minimum, reason):
    with pytest.raises(NoConsensus, match=f"^no consensus: .*{reason}"):
        fuse(asked, strategy, minimum)


def test_what_cannot_be_done_here_says_why():
    with pytest.raises(InvalidArgument, match="no strategy 'best'; there are majority-vote, "):
        fuse([Bare("1")], "best")
    with pytest.raises(InvalidArgument, match="aggregate needs a worker"):
        fuse([Bare("1")], "aggregate")


def test_an_aggregator_is_shown_the_question_and_every_draft():
    prompt = aggregation_prompt("Why?", ["Because.\n", "So that."])
    assert prompt.startswith("Why?\n\n")
    assert prompt.index("Answer 1:\nBecause.\n\nAnswer 2:\nSo that.") > 0


# -- where voters go ----------------------------------------------------------------


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_voters_are_spread_over_hosts_then_workers_then_round_again(hosts, count, rng):
    where = {f"{host}.{i}": host for host, size in enumerate(hosts) for i in range(size)}
    balancer = Balancer("random", rng)
    for name, host in where.items():
        balancer.add(name, f"host {host}")
    spread = Spread()
    placed = []
    for _ in range(count):
        placed.append(balancer.choose(Request("x"), spread.avoided).name)
        spread.placed(placed[-1])
    round_ = placed[: len(where)]
    assert len(set(round_)) == len(round_)
    first = [where[name] for name in placed[: len(hosts)]]
    assert len(set(first)) == len(first)
    uses = [placed.count(name) for name in where]
    assert max(uses) - min(uses) <= 1
