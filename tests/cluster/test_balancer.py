"""The balancer as a pure policy: who is eligible, who is chosen, and what is remembered of it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llambo9p.cluster import balancer_file
from llambo9p.cluster.balancer import Balancer
from llambo9p.cluster.candidates import Candidate, Needs, Pool, Work
from llambo9p.cluster.strategies import BUILT_IN, Random
from llambo9p.engine.base import Message, Request, SamplingParams, Usage
from llambo9p.errors import Error, InvalidArgument, WorkerLost

STRATEGIES = list(BUILT_IN)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def balancer(strategy: str, **hosts: str) -> Balancer:
    """Hosts by name, each with its workers' names: a letter each."""
    b = Balancer(strategy, random.Random(9))
    for address, names in hosts.items():
        for name in names:
            b.add(name, address)
    return b


def request(prompt: str = "x", max_tokens: int = 100, **options: Any) -> Request:
    return Request(prompt, SamplingParams(max_tokens=max_tokens), **options)


def usage(prompt: int = 0, seconds: float = 0, answer: int = 0, rate: float = 0) -> Usage:
    """Of a prompt read in so many seconds, and an answer decoded at so many tokens/s."""
    ttft = seconds * 1000
    total = ttft + ((answer - 1) * 1000 / rate if rate else 0)
    return Usage(prompt, 0, answer, ttft_ms=ttft, total_ms=total)


def chosen(b: Balancer, count: int, **options: Any) -> Counter[str]:
    """By whom so many requests would be answered, each over before the next."""
    names: Counter[str] = Counter()
    for _ in range(count):
        work = b.choose(request(), **options)
        b.finished(work)
        names[work.name] += 1
    return names


def test_a_host_that_has_as_many_as_it_may_have_gets_no_more() -> None:
    b = Balancer("round-robin", random.Random(9), queue=1)
    b.add("a", "one", slots=2)
    b.add("b", "one", slots=2)
    works = [b.choose(request()) for _ in range(3)]
    assert b.choose(request()) is None and not b.has_room
    assert not b.takes("a", False) and not b.takes("b", False)
    b.add("c", "two", model="other")
    assert b.choose(request(), model="-") is None
    assert set(b.models(request())) == {"-", "other"}
    assert b.choose(request()).name == "c"
    b.finished(works[0])
    assert b.choose(request(), model="-").name in "ab"


@every_strategy
def test_a_host_that_is_kept_gets_only_what_is_sent_to_it(strategy: str) -> None:
    b = balancer(strategy, one="ab", two="c")
    one, two = b.hosts
    b.keep(one, True)
    assert not b.takes("a", False) and b.takes("c", False)
    assert set(chosen(b, 10)) == {"c"}
    work = b.send(request(), one)
    assert work.name in "ab" and one.requests == 1
    b.keep(two, True)
    assert not b.has_room and b.choose(request()) is None
    b.finished(work)
    b.keep(one, False)
    assert b.has_room and set(chosen(b, 10)) == {"a", "b"}


def test_of_the_hosts_that_suit_the_one_with_the_fewest_requests_is_given() -> None:
    b = Balancer("round-robin", random.Random(9), queue=0)
    for name, model in (("a", "m"), ("b", "m"), ("c", "other")):
        b.add(name, f"host-{name}", model=model)
    one, two, other = b.hosts
    b.send(request(), one)
    assert one.full
    everyone = frozenset("abc")
    for avoid, model, suits, expected in (
        (frozenset(), "m", lambda host: True, two),
        (frozenset(), "m", lambda host: host is one, one),
        (frozenset("b"), "m", lambda host: True, one),
        (everyone, "m", lambda host: True, two),
        (frozenset("bc"), "", lambda host: host is other, None),
        (frozenset(), "other", lambda host: True, other),
    ):
        assert b.choose_host(request(), avoid, model, suits) is expected


# -- who is eligible --------------------------------------------------------------


@every_strategy
def test_nobody_is_chosen_from_nothing(strategy: str) -> None:
    b = Balancer(strategy)
    for ask in (b.check, b.choose):
        with pytest.raises(WorkerLost, match="no healthy worker; start some"):
            ask(request())
    b.add("a", "one")
    b.remove("a")
    with pytest.raises(WorkerLost, match="no healthy worker; start some"):
        b.check(request())
    assert list(b.hosts) == []


@every_strategy
def test_only_workers_of_the_required_type_are_chosen(strategy: str) -> None:
    b = Balancer(strategy, random.Random(1))
    for i in range(20):
        b.add(f"t{i}", "small", node_type="tiny")
    b.add("l", "big", node_type="large")
    b.add("s", "strange")
    for _ in range(20):
        assert b.choose(request(node_type="large")).name == "l"
    assert len({b.choose(request(node_type="tiny")).name for _ in range(200)}) > 10
    with pytest.raises(WorkerLost, match="^no healthy worker of type huge; types are large tiny$"):
        b.check(request(node_type="huge"))
    b.hold("l")
    with pytest.raises(WorkerLost, match="^no healthy worker of type large; types are tiny$"):
        b.choose(request(node_type="large"))


@every_strategy
def test_a_prompt_goes_where_it_fits_and_else_to_the_largest_context(strategy: str) -> None:
    b = Balancer(strategy, random.Random(1))
    for name, context in (("a", 512), ("b", 1024), ("c", 2048)):
        b.add(name, name, context=context)
    for characters, names in ((40, "abc"), (3000, "bc"), (6000, "c"), (60_000, "c")):
        works = [b.choose(request("x" * characters)) for _ in range(40)]
        assert {work.name for work in works} == set(names)
    b.hold("c")
    assert b.choose(request("x" * 60_000)).name == "b"
    b.add("?", "mounted")
    assert {b.choose(request("x" * 60_000)).name for _ in range(9)} == {"?"}, "it does not say"


@every_strategy
def test_a_degraded_worker_is_chosen_only_where_no_other_is(strategy: str) -> None:
    b = balancer(strategy, one="ab", two="c")
    b.allow("a", degraded=True)
    b.allow("c", degraded=True)
    assert set(chosen(b, 30)) == {"b"}
    b.hold("b")
    assert set(chosen(b, 50)) == {"a", "c"}
    b.allow("c")
    assert set(chosen(b, 30)) == {"c"}
    assert len(b) == 2


@every_strategy
def test_workers_to_avoid_and_their_hosts_are_passed_over_while_there_are_others(
    strategy: str,
) -> None:
    b = balancer(strategy, one="abc", two="de", three="f")
    assert set(chosen(b, 60, avoid=frozenset("a"))) == set("def")
    assert set(chosen(b, 60, avoid=frozenset("af"))) == set("de")
    assert set(chosen(b, 99, avoid=frozenset("aef"))) == set("bcd"), "no other host"
    assert set(chosen(b, 20, avoid=frozenset("abcdf"))) == {"e"}
    assert set(chosen(b, 99, avoid=frozenset("abcdef"))) <= set("abcdef")
    assert chosen(b, 1, avoid=frozenset(["gone"])).total() == 1
    assert b.avoided > 0


@every_strategy
def test_who_is_to_avoid_gets_nothing_while_others_are_only_full(strategy: str) -> None:
    """A host that failed all it got had room at once, was sent the same again, and failed it for
    good while others were busy."""
    b = Balancer(strategy, random.Random(9), queue=0)
    b.add("a", "fails", slots=9)
    b.add("b", "works", slots=1)
    b.add("c", "another model", slots=1, model="other")
    avoid = frozenset("a")
    last = [b.choose(request(), avoid, model) for model in ("-", "other")]
    assert b.choose(request(), avoid) is None
    assert b.choose(request(), avoid, "-") is None
    assert b.choose(request(), frozenset("ab"), "-").name == "a", "there is no other"
    b.finished(last[0])
    assert b.choose(request(), avoid, "-").name == "b"


# -- strategies -------------------------------------------------------------------


def test_round_robin_takes_each_in_turn() -> None:
    for n in range(1, 40):
        b = Balancer("round-robin")
        for i in range(n):
            b.add(str(i), "one")
        assert set(chosen(b, 3 * n).values()) == {3}


def test_round_robin_goes_from_host_to_host() -> None:
    b = Balancer("round-robin")
    for i in range(400):
        b.add(str(i), f"host {i // 100}")
    for _ in range(8):
        hosts = Counter(int(b.choose(request()).name) // 100 for _ in range(20))
        assert all(3 <= hosts[host] <= 7 for host in range(4)), hosts


def test_round_robin_has_turns_for_each_type() -> None:
    b = Balancer("round-robin")
    for name in "ab":
        b.add(name, "one", node_type="tiny")
        b.add(name.upper(), "two", node_type="large")
    names = [b.choose(request(node_type=t)).name for t in ("tiny", "large") * 10]
    assert set(Counter(names).values()) == {5}


def test_random_takes_each_as_often() -> None:
    counts = chosen(balancer("random", one="abc", two="d"), 4000)
    assert all(900 < counts[name] < 1100 for name in "abcd"), counts


def test_least_loaded_of_two_hosts_takes_the_idle_one() -> None:
    b = balancer("least-loaded", one="abc", two="d")
    first = b.started("a", request("x" * 400))
    assert set(chosen(b, 50)) == {"d"}
    b.finished(first)
    b.started("d", request())
    assert chosen(b, 60) == {"a": 20, "b": 20, "c": 20}, "those of a host in turn"


def test_least_loaded_counts_what_is_left_of_a_request() -> None:
    b = balancer("least-loaded", one="a", two="b")
    long = b.started("a", request("x" * 40_000, max_tokens=100))
    short = b.started("b", request("x", max_tokens=300))
    assert set(chosen(b, 20)) == {"b"}
    long.decoded(60)  # the prompt is taken in
    assert set(chosen(b, 20)) == {"a"}
    short.decoded(299)
    assert set(chosen(b, 20)) == {"b"}
    long.decoded(1000)
    assert set(chosen(b, 20)) == {"a"}, "never less than nothing"
    one, two = b.hosts
    assert (one.decode, two.decode) == (0, 1)


def test_least_loaded_spreads_requests_of_unequal_size() -> None:
    b = Balancer("least-loaded", random.Random(9))
    for i in range(10):
        b.add(str(i), f"host {i}")
    for i in range(700):
        b.choose(request(max_tokens=1000 if i % 7 == 0 else 10))
    loads = [host.decode for host in b.hosts]
    assert max(loads) - min(loads) <= 3 * 1000, loads


def test_a_burst_is_spread_although_nothing_is_over_in_between() -> None:
    b = balancer("least-loaded", one="abcdefgh", two="x")
    assert sum(b.choose(request()).name == "x" for _ in range(100)) == 50


def test_least_loaded_learns_how_fast_hosts_are() -> None:
    b = Balancer("least-loaded", random.Random(9))
    for name in ("slow", "fast"):
        b.add(name, name, slots=16)
    for _ in range(50):
        b.finished(b.started("slow", request()), usage(100, 1.0, 100, 10))
        b.finished(b.started("fast", request()), usage(100, 0.1, 100, 100))
    slow, fast = b.hosts
    assert slow.rates.prefill == pytest.approx(100, rel=0.01)
    assert fast.rates.decode == pytest.approx(100, rel=0.01)
    counts = Counter(b.choose(request()).name for _ in range(110))
    assert 90 <= counts["fast"] <= 103, "about ten times as many"


def test_a_rate_is_that_of_all_requests_together() -> None:
    b = balancer("least-loaded", one="a")
    [host] = b.hosts
    host.slots = 16
    for _ in range(50):
        works = [b.started("a", request()) for _ in range(8)]
        for work in works:
            work.decoded(1)
        for work in works:
            b.finished(work, usage(100, 1.0, 100, 10))
    assert 400 < host.rates.prefill < 800 and 40 < host.rates.decode < 80, (
        "of each it is 100 and 10, and four to eight share the host"
    )


def test_a_host_of_which_nothing_was_seen_is_taken_for_one_like_the_others_of_its_type() -> None:
    b = Balancer("least-loaded", random.Random(9))
    for name in "abcd":
        b.add(name, name, node_type="tiny" if name in "ab" else "large")
    for _ in range(50):
        b.finished(b.started("a", request()), usage(100, 0.01, 100, 5000))
    rates = [host.rates.decode for host in b.hosts]
    assert rates == pytest.approx([5000] * 4, rel=0.01), "even those of other types"
    assert min(chosen(b, 100).values()) > 15
    b.finished(b.started("c", request()), usage(100, 0.01, 100, 1000))
    rates = [host.rates.decode for host in b.hosts]
    assert rates == pytest.approx([5000, 5000, 4200, 4200], rel=0.01)


def test_a_host_that_was_slow_once_is_tried_again() -> None:
    b = balancer("least-loaded", fast="a", slow="b")
    for _ in range(9):
        b.finished(b.started("b", request()), usage(100, 1, 100, 10))
    for _ in range(90):
        b.finished(b.started("a", request()), usage(100, 0.1, 100, 100))
    names = []
    for _ in range(2000):
        work = b.choose(request())
        names.append(work.name)
        b.finished(work, usage(100, 0.1, 100, random.Random(len(names)).uniform(80, 120)))
    assert "b" not in names[:20] and 300 < names.count("b"), "it has become as fast as the other"


def test_what_is_too_short_to_measure_teaches_nothing() -> None:
    b = balancer("least-loaded", one="a")
    [host] = b.hosts
    before = host.rates.prefill, host.rates.decode
    for said in (usage(), usage(3, 0.001, 4, 9999), Usage(500, 499), None):
        b.finished(b.started("a", request()), said)
    assert (host.rates.prefill, host.rates.decode) == before


def test_answers_shorter_than_max_tokens_weigh_less() -> None:
    b = balancer("least-loaded", one="a")
    [host] = b.hosts
    for _ in range(60):
        b.finished(b.started("a", request(max_tokens=1000)), usage(answer=50))
    b.started("a", request(max_tokens=1000))
    assert 50 <= host.decode < 60


def test_a_heartbeat_tells_of_requests_that_are_not_ours() -> None:
    b = balancer("least-loaded", one="a", two="b")
    b.heard("one", 3)
    assert set(chosen(b, 20)) == {"b"}
    b.heard("two", 4)
    assert set(chosen(b, 20)) == {"a"}
    b.heard("one", 0)
    works = [b.started("b", request()) for _ in range(4)]
    b.heard("two", 4)
    assert [host.strangers for host in b.hosts] == [0, 0], "those four are ours"
    b.heard("gone", 7)
    for work in works:
        b.finished(work)


# -- affinity ---------------------------------------------------------------------

LONG = "You are a helpful assistant. " * 100


def hosts_of(b: Balancer, count: int, make: Any) -> set[str]:
    """On which hosts so many requests are answered, each over before the next."""
    found = set()
    for i in range(count):
        work = b.choose(make(i))
        found.add(b.workers[work.name].host.address)
        b.finished(work)
    return found


def many_hosts(strategy: str = "affinity") -> Balancer:
    b = Balancer(strategy, random.Random(3))
    for i in range(40):
        b.add(f"w{i}", f"host {i // 2}")
    return b


def test_affinity_stays_with_the_host_that_knows_the_prefix() -> None:
    for make in (
        lambda i: request(LONG + str(i)),
        lambda i: Request((Message("system", LONG), Message("user", str(i)))),
    ):
        assert len(hosts_of(many_hosts(), 50, make)) == 1
        assert len(hosts_of(many_hosts("least-loaded"), 50, make)) > 10


def test_affinity_is_no_more_than_least_loaded_without_a_common_prefix() -> None:
    assert len(hosts_of(many_hosts(), 50, lambda i: request(f"{i}" + LONG))) > 10
    assert len(hosts_of(many_hosts(), 50, lambda i: request("short"))) > 10
    assert len(hosts_of(many_hosts(), 50, lambda i: request(LONG, user=f"user {i}"))) > 10, (
        "no user finds in the cache what another asked"
    )


def test_affinity_follows_the_longest_prefix() -> None:
    b = many_hosts()
    b.finished(b.started("w0", request(LONG)))
    b.finished(b.started("w8", request(LONG * 2)))
    b.finished(b.started("w20", request(LONG[:600] + "something else" * 100)))
    assert hosts_of(b, 9, lambda i: request(LONG * 2 + str(i))) == {"host 4"}


def test_affinity_passes_over_a_favourite_that_is_too_busy() -> None:
    """The favourite saves about 700 tokens of prefill, 0.7 s at the rates that are assumed."""
    b = balancer("affinity", one="a", two="b")
    b.finished(b.started("a", request(LONG)))
    [host, _] = b.hosts
    busy = b.started("a", request(max_tokens=int(0.5 * host.rates.decode)))
    assert set(hosts_of(b, 5, lambda i: request(LONG + str(i)))) == {"one"}
    b.finished(busy)
    busy = b.started("a", request(max_tokens=int(0.9 * host.rates.decode)))
    work = b.choose(request(LONG + "?"))
    assert work.name == "b"
    assert dict(b.statistics)["passed_over"] == 1
    b.finished(work)
    b.finished(busy)
    b.started("b", request(max_tokens=1))
    assert b.choose(request(LONG + "!")).name == "a", "both know it now, and a is idle"


def test_affinity_forgets_a_host_that_is_gone() -> None:
    b = balancer("affinity", one="a", two="b")
    b.finished(b.started("a", request(LONG)))
    b.hold("a")
    work = b.choose(request(LONG))
    assert work.name == "b"
    b.finished(work)
    b.remove("a")
    b.add("a", "one")
    assert hosts_of(b, 20, lambda i: request(LONG + str(i))) == {"two"}, "its cache is not"


def test_affinity_remembers_a_bounded_number_of_prefixes() -> None:
    b = balancer("affinity", one="a")
    for i in range(3000):
        b.finished(b.choose(request(f"{i} " + LONG * 2)))
    assert dict(b.statistics)["prefixes"] == 32_768


def test_a_cached_prefix_is_not_counted_as_work() -> None:
    b = balancer("affinity", one="a")
    [host] = b.hosts
    b.finished(b.choose(request(LONG)))
    b.choose(request(LONG))
    assert host.prefill < 100
    turns = (Message("user", LONG), Message("assistant", LONG), Message("user", "x" * 40))
    before = host.prefill
    b.started("a", Request(turns))
    assert host.prefill - before == pytest.approx(11, abs=1), "the conversation is there"


# -- the record -------------------------------------------------------------------


def test_a_strategy_can_be_changed_at_any_time_and_an_unknown_one_is_refused() -> None:
    b = balancer("round-robin", one="a", two="b")
    for strategy in [*STRATEGIES, *STRATEGIES]:
        b.use(strategy)
        b.finished(b.choose(request(LONG)))
    with pytest.raises(InvalidArgument, match="no strategy 'best'; strategies are round-robin "):
        b.use("best")
    assert b.strategy == STRATEGIES[-1]
    assert dict(b.decisions) == dict.fromkeys(STRATEGIES, 2)


def test_the_end_of_a_request_whose_host_is_gone_is_nothing() -> None:
    b = balancer("least-loaded", one="a")
    before = b.choose(request())
    b.remove("a")
    after = b.started("a", request())
    b.add("a", "one")
    for work in (before, after, after):
        b.finished(work, usage(100, 1, 100, 10))
    [host] = b.hosts
    assert (host.requests, host.prefilling, host.prefill, host.decode) == (0, 0, 0, 0)


def test_the_file_does_not_grow_with_the_cluster() -> None:
    b = Balancer("affinity", random.Random(1))
    for i in range(10_000):
        b.add(f"worker-{i:04d}", f"tcp!host{i // 4}!9000", node_type=f"type{i % 3}")
    busy = [b.started("worker-5000", request()) for _ in range(3)]
    text = balancer_file.text(b)
    assert len(text.splitlines()) < 60 and len(text) < 8000
    assert "\nworkers 10000\neligible 10000\nhosts 2500\nrequests 3\n" in text
    assert "\ntype type2 workers 3333 eligible 3333 dispatched 3\n" in text
    assert "\nhost tcp!host1250!9000 workers 4 dispatched 3 requests 3 " in text
    assert "\nworker worker-5000 type type2 eligible yes dispatched 3\n" in text
    for work in busy:
        b.finished(work)


class Touched(Pool[Any]):
    """A pool that counts how often it is looked into."""

    count = 0

    def __getitem__(self, place: int) -> Any:
        Touched.count += 1
        return super().__getitem__(place)

    def __iter__(self) -> Any:
        raise AssertionError("a choice goes through all")


@every_strategy
@pytest.mark.parametrize("avoid", [frozenset(), frozenset({"w1", "w5"})])
def test_a_choice_looks_at_as_many_of_ten_thousand_as_of_ten(
    strategy: str, avoid: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llambo9p.cluster.candidates.Pool", Touched)
    most = []
    for n in (10, 10_000):
        b = Balancer(strategy, random.Random(1))
        for i in range(n):
            b.add(f"w{i}", f"host {i // 4}", node_type=f"type{i % 2}", context=512)
        b.check(request())
        counts = []
        for i in range(100):
            Touched.count = 0
            b.finished(b.choose(request(LONG + str(i % 5)), avoid))
            counts.append(Touched.count)
        most.append(max(counts))
    assert 0 < most[1] <= 12 and most[0] <= 12


class Table(RuleBasedStateMachine):
    """Whatever happens: who is chosen may be chosen, and what was sent is what is counted."""

    @initialize(strategy=st.sampled_from(STRATEGIES))
    def start(self, strategy: str) -> None:
        self.b = Balancer(strategy, random.Random(0), queue=1)
        self.types: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.works: list[tuple[Work, str]] = []

    names = st.sampled_from([f"w{i}" for i in range(8)])
    types = st.sampled_from(["tiny", "large"])

    @rule(name=names, node_type=types, context=st.sampled_from([64, 512, None]))
    def add(self, name: str, node_type: str, context: int | None) -> None:
        address = f"{node_type} {int(name[1]) // 3}"
        model = f"model of {address}"
        self.b.add(name, address, node_type=node_type, context=context, model=model)
        self.types[name], self.states[name] = node_type, "healthy"

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.b.remove(name)
        self.states.pop(name, None)

    @rule(name=names, state=st.sampled_from(["held", "degraded", "healthy"]))
    def change(self, name: str, state: str) -> None:
        if state == "held":
            self.b.hold(name)
        else:
            self.b.allow(name, state == "degraded")
        if name in self.states:
            self.states[name] = state

    @rule(strategy=st.sampled_from(STRATEGIES))
    def use(self, strategy: str) -> None:
        self.b.use(strategy)

    @rule(
        size=st.integers(0, 5000),
        node_type=st.sampled_from(["", "tiny", "large"]),
        avoid=st.frozensets(names, max_size=3),
        model=st.sampled_from(["", "", "model of tiny 0", "model of large 2"]),
    )
    def choose(self, size: int, node_type: str, avoid: frozenset[str], model: str) -> None:
        asked = request("x" * size, node_type=node_type)
        suitable = {
            name
            for name, state in self.states.items()
            if state != "held" and node_type in ("", self.types[name])
        }
        if not suitable:
            with pytest.raises(WorkerLost):
                self.b.choose(asked, avoid, model)
            return
        hosts = {name: self.b.workers[name].host for name in suitable}
        room = [host for host in hosts.values() if host.requests < 2]
        can = {
            name
            for name in suitable
            if hosts[name] in room and model in ("", hosts[name].model)
        }
        work = self.b.choose(asked, avoid, model)
        if work is None:
            # those with too little context for it, or degraded ones, may have been passed over
            fits = [n for n in can - avoid if self.states[n] == "healthy"]
            assert not [n for n in fits if self.b.workers[n].context > 5000]
            return
        assert work.name in can
        self.works.append((work, work.name))

    @precondition(lambda self: self.works)
    @rule(data=st.data(), tokens=st.integers(0, 200), answered=st.booleans())
    def go_on(self, data: st.DataObject, tokens: int, answered: bool) -> None:
        i = data.draw(st.integers(0, len(self.works) - 1))
        work, _ = self.works[i]
        work.decoded(tokens)
        if tokens % 2:
            self.b.finished(work, usage(50, 0.1, tokens, 30) if answered else None)
            del self.works[i]

    @invariant()
    def sums_are_right(self) -> None:
        if not hasattr(self, "b"):
            return
        assert len(self.b) == sum(state != "held" for state in self.states.values())
        assert sum(host.workers for host in self.b.hosts) == len(self.states)
        for host in self.b.hosts:
            assert 0 <= host.prefilling <= host.requests
            assert host.requests or (host.prefill, host.decode) == (0, 0)
            assert host.prefill >= 0 and host.decode >= 0
            assert host.rates.prefill > 0 and host.rates.decode > 0
        assert sum(host.requests for host in self.b.hosts) <= len(self.works)


TestTable = Table.TestCase


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))))
def test_a_pool_is_a_set_with_places(steps: list[tuple[bool, int]]) -> None:
    pool: Pool[int] = Pool()
    model: set[int] = set()
    for adding, item in steps:
        (pool.add if adding else pool.discard)(item)
        (model.add if adding else model.discard)(item)
        assert len(pool) == len(model) and set(pool) == model
        assert {pool[i] for i in range(len(pool))} == model
        assert all((i in pool) == (i in model) for i in range(10))


def test_a_strategy_that_fails_or_errs_is_named() -> None:
    b = balancer("random", one="a", two="b")

    class Errs:
        def choose(self, needs: Any, eligible: Any) -> Any:
            return b.workers[needs.request.prompt]

    b._strategy = Errs()  # type: ignore[assignment]
    with pytest.raises(Error, match=r"^strategy random: KeyError\('nobody'\)$"):
        b.choose(request("nobody"))
    b.hold("a")
    with pytest.raises(Error, match="^strategy random chose <Candidate a .* not eligible$"):
        b.choose(request("a"))


def test_a_strategy_that_fails_when_it_is_told_counts_nothing() -> None:
    b = balancer("random", one="a")

    class Fails(Random):
        def started(self, needs: Needs, worker: Candidate) -> None:
            raise ZeroDivisionError

        def statistics(self) -> Any:
            raise ZeroDivisionError

    b._strategy = Fails(random.Random(1))
    for fails in (
        lambda: b.choose(request("x")),
        lambda: b.started("a", request("x")),
        lambda: list(b.statistics),
    ):
        with pytest.raises(Error, match=r"^strategy random: ZeroDivisionError\(\)$"):
            fails()
    [host] = b.hosts
    assert (host.requests, host.prefill, b.workers["a"].dispatched) == (0, 0, 0)
    assert not b.decisions
