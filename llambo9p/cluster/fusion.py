"""Several answers to one question made into one: pure, without clock or I/O.

`poll` reads from each response what it votes for and how much that weighs; `fuse` makes one
answer of the votes, if there are as many as are required.  Rules that every strategy keeps:

- The order of the responses means nothing, and equal responses give equal results: ties go to
  the answer that the model found more probable, then to the one that sorts first.
- The weights of the votes sum to 1; who abstains weighs nothing.

The strategies, with p the probability that the model gave to a token of the response, and
`mean_logprob` the mean of ln p over them:

- `majority-vote`: the answers are extracted (`extract`), each counts 1, the most frequent one
  wins.  Self-consistency: Wang et al. 2022, arXiv:2203.11171.
- `confidence-weighted`: likewise, but each counts exp(mean_logprob), which is the weighted sum
  of that paper, divided by their total, which makes it the softmax of the mean_logprobs
  (compare Taubenfeld et al. 2025, arXiv:2502.06233, at temperature 1).
- `best-of-n`: the response with the highest mean_logprob, whole; its weight is its share in
  that softmax.  Nothing judges it but the model that wrote it, and likely texts are not
  always good ones (Zhang et al. 2020, arXiv:2004.10450).
- `weighted-average`: the mean of the numbers that are extracted, weighted by that softmax.
- `aggregate`: a worker is shown all the responses and writes the answer
  (`aggregation_prompt`); Mixture-of-Agents: Wang et al. 2024, arXiv:2406.04692.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..errors import InvalidArgument, NoConsensus

SHORT = 40
"""characters, at most, of a response that is an answer as it stands"""
_LARGEST = 1e300
"""of numbers whose mean is wanted"""

_NUMBER = re.compile(
    r"(?:(?<![\w.])-)?(?<![\w.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![0-9])"
)
_MARKED = re.compile(
    r"\banswer\s*(?:is\b|:|=)[:\s]*(.*\S)|####[^\S\n]*(.*\S)|\\boxed\{(.*?)\}", re.IGNORECASE
)
_WORDS = ("yes", "no", "true", "false")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Response(Protocol):
    """An answer.  Where it has a `mean_logprob` that is not None, see the module."""

    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Vote:
    """What one response says."""

    answer: str | None
    """None: it abstains, for nothing is found in it that the strategy could use"""
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Fused:
    """What the responses say together."""

    text: str
    """of a response that has the answer, the most probable such; or a number"""
    answer: str
    index: int | None
    """which of the responses `text` is of"""
    votes: tuple[Vote, ...]
    """of the responses, in their order"""

    @property
    def agreement(self) -> float:
        """The share, 0 to 1, of what was counted that is for this very answer."""
        return math.fsum(vote.weight for vote in self.votes if vote.answer == self.answer)

    @property
    def abstained(self) -> int:
        return sum(vote.answer is None for vote in self.votes)


def fuse(
    responses: Sequence[Response], strategy: str = "majority-vote", minimum: int = 1
) -> Fused:
    """One answer of several.  Raises InvalidArgument for a strategy that there is not, and for
    `aggregate`, which needs a worker; NoConsensus when fewer than `minimum` can be counted."""
    if not isinstance(responses, list | tuple) or not all(
        isinstance(getattr(response, "text", None), str) for response in responses
    ):
        raise InvalidArgument("responses must have a text each, and be in a list or a tuple")
    if not isinstance(minimum, int) or isinstance(minimum, bool):
        raise InvalidArgument(f"minimum must be a whole number, not {minimum!r:.60}")
    combine = _strategy(strategy).combine
    if combine is None:
        raise InvalidArgument(f"{strategy} needs a worker: write the prompt to fusion/prompt")
    votes = poll(responses, strategy)
    require(votes, strategy, minimum)
    return combine(responses, votes)


def poll(responses: Sequence[Response], strategy: str) -> tuple[Vote, ...]:
    """The vote of each response."""
    how = _strategy(strategy)
    answers = [how.read(response) for response in responses]
    counted = [i for i, answer in enumerate(answers) if answer is not None]
    weights = how.weigh([responses[i] for i in counted]) if counted else []
    weight_of = dict(zip(counted, weights, strict=True))
    return tuple(Vote(answer, weight_of.get(i, 0.0)) for i, answer in enumerate(answers))


def require(votes: Sequence[Vote], strategy: str, minimum: int = 1) -> None:
    """Raises NoConsensus when fewer than `minimum`, or none, do not abstain."""
    minimum = max(minimum, 1)
    counted = sum(vote.answer is not None for vote in votes)
    if counted < minimum:
        raise NoConsensus(
            f"{NoConsensus.ename}: {strategy}: {counted} of {len(votes)} answers can be counted, "
            f"{minimum} must be; it needs {_strategy(strategy).needs}"
        )


def aggregation_prompt(question: str, drafts: Sequence[str]) -> str:
    """What a worker is asked that makes one answer of several."""
    numbered = "\n\n".join(f"Answer {i}:\n{draft.strip()}" for i, draft in enumerate(drafts, 1))
    return (
        f"{question}\n\nSeveral assistants have answered this:\n\n{numbered}\n\n"
        "Some of that may be wrong. Judge it, and write one answer, the best that can be made "
        "of these. Do not mention the assistants."
    )


# -- reading ------------------------------------------------------------------------


def extract(text: str) -> str | None:
    """The answer that a text comes to, normalised; None when there is none to be seen.

    Where something is marked as the answer (`answer is ...`, `answer: ...`, `#### ...`,
    `\\boxed{...}`; the last one, to the end of its line), that alone is read.  It is `yes`,
    `no`, `true` or `false` if it begins so; else the last number in it, as 1234.5; else,
    when it is one line of at most `SHORT` characters, that line without case, punctuation
    and articles (as SQuAD compares: Rajpurkar et al. 2016, arXiv:1606.05250).
    """
    marked = _MARKED.findall(text)
    if marked:
        text = "".join(marked[-1])
    words = text.casefold().translate(_NO_PUNCTUATION).split()
    if words and words[0] in _WORDS:
        return words[0]
    number = last_number(text)
    if number is not None:
        return number
    line = text.strip()
    if "\n" in line or len(line) > SHORT:
        return None
    return " ".join(word for word in words if word not in ("a", "an", "the")) or None


def last_number(text: str) -> str | None:
    """The last decimal number in a text, without commas and needless zeros."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    sign, digits = ("-", found[-1][1:]) if found[-1][0] == "-" else ("", found[-1])
    whole, _, fraction = digits.replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    number = (whole.lstrip("0") or "0") + ("." + fraction if fraction else "")
    return number if number == "0" else sign + number


def _read_answer(response: Response) -> str | None:
    return extract(response.text)


def _read_text(response: Response) -> str | None:
    return " ".join(response.text.split()) or None


def _read_number(response: Response) -> str | None:
    answer = extract(response.text)
    number = last_number(answer) if answer is not None else None
    return number if number is not None and abs(float(number)) < _LARGEST else None


def _if_probable(read: Callable[[Response], str | None]) -> Callable[[Response], str | None]:
    return lambda response: read(response) if _logprob(response) > -math.inf else None


def _logprob(response: Response) -> float:
    """Its mean_logprob; minus infinity for one that has none."""
    logprob = getattr(response, "mean_logprob", None)
    return logprob if logprob is not None and math.isfinite(logprob) else -math.inf


# -- weighing and combining ---------------------------------------------------------


def _equally(responses: Sequence[Response]) -> list[float]:
    return [1 / len(responses)] * len(responses)


def _softmax(responses: Sequence[Response]) -> list[float]:
    logprobs = [_logprob(response) for response in responses]
    highest = max(logprobs)
    exponentials = [math.exp(logprob - highest) for logprob in logprobs]
    total = math.fsum(exponentials)
    return [each / total for each in exponentials]


def _heaviest(
    score: Callable[[Sequence[float]], float],
) -> Callable[[Sequence[Response], tuple[Vote, ...]], Fused]:
    """The answer whose weights have the highest score."""

    def combine(responses: Sequence[Response], votes: tuple[Vote, ...]) -> Fused:
        groups: dict[str, list[int]] = {}
        for i, vote in enumerate(votes):
            if vote.answer is not None:
                groups.setdefault(vote.answer, []).append(i)

        def order(answer: str) -> tuple[float, float, str]:
            members = groups[answer]
            most_probable = max(_logprob(responses[i]) for i in members)
            return -score([votes[i].weight for i in members]), -most_probable, answer

        def order_within(i: int) -> tuple[float, int, str]:
            text = responses[i].text
            return -_logprob(responses[i]), len(text), text

        answer = min(groups, key=order)
        index = min(groups[answer], key=order_within)
        return Fused(responses[index].text, answer, index, votes)

    return combine


def _average(responses: Sequence[Response], votes: tuple[Vote, ...]) -> Fused:
    mean = math.fsum(v.weight * float(v.answer) for v in votes if v.answer is not None)
    text = f"{mean:.12g}"
    return Fused(text, text, None, votes)


class _Strategy(NamedTuple):
    read: Callable[[Response], str | None]
    weigh: Callable[[Sequence[Response]], list[float]]
    """of those that do not abstain"""
    combine: Callable[[Sequence[Response], tuple[Vote, ...]], Fused] | None
    """None: a worker does that"""
    needs: str


_ANSWERS = f"a number, yes or no, or at most {SHORT} characters in each"
_STRATEGIES = {
    "majority-vote": _Strategy(_read_answer, _equally, _heaviest(math.fsum), _ANSWERS),
    "confidence-weighted": _Strategy(
        _if_probable(_read_answer), _softmax, _heaviest(math.fsum), f"{_ANSWERS}, and logprobs"
    ),
    "best-of-n": _Strategy(_if_probable(_read_text), _softmax, _heaviest(max), "logprobs"),
    "weighted-average": _Strategy(
        _if_probable(_read_number), _softmax, _average, "a number in each, and logprobs"
    ),
    "aggregate": _Strategy(_read_text, _equally, None, "a text in each"),
}
STRATEGIES = tuple(_STRATEGIES)


def _strategy(name: str) -> _Strategy:
    if not isinstance(name, str) or name not in _STRATEGIES:
        raise InvalidArgument(f"no strategy {name!r:.40}; there are {', '.join(STRATEGIES)}")
    return _STRATEGIES[name]
