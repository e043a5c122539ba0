"""A host's root: its workers, `status`, `workers`, `ctl`, and attaching by aname."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound, Stale
from llambo9p.net.address import parse
from llambo9p.p9 import messages as m
from tests.files import story

from .harness import hosting


@story
async def test_the_root_lists_the_workers():
    async with hosting(count=3, first=7) as place:
        assert await place.files.ls() == [
            "ctl", "status", "workers", "metrics", "worker-0007", "worker-0008", "worker-0009",
        ]  # fmt: skip
        assert await place.files.ls() == await place.files.ls("worker-0008/..")


@story
async def test_an_aname_attaches_one_worker_and_dotdot_stays_there():
    async with hosting(count=2) as place, place.connect("worker-0001") as worker:
        names = await worker.ls()
        assert "prompt" in names and "worker-0000" not in names
        for path in ("..", "../..", "../../.."):
            fid, walked = await worker.walk(path)
            assert len(walked.wqid) == path.count("..")
            stat = await worker.client.call(m.Tstat(0, fid), m.Rstat)
            assert stat.stat.name == "worker-0001"
        with pytest.raises(NotFound):
            await worker.read("../worker-0000/status")
        assert await worker.read("../status") == await worker.read("status")
        assert await worker.ask("hello") == "simulated: hello"
        assert await place.files.read("worker-0001/out") == "simulated: hello"


@story
async def test_an_unknown_aname_is_refused_by_name():
    async with hosting() as place:
        for aname in ("worker-0001", "0", "worker-0000/out"):
            with pytest.raises(Error, match=f"^no worker {aname} on this host$"):
                async with place.connect(aname):
                    pass
        async with place.connect("/") as root:
            assert "worker-0000" in await root.ls()


@story
async def test_an_aname_with_another_epoch_is_refused():
    async with hosting() as place:
        place.host.epoch = 7
        for aname in ("worker-0000@7", "@7"):
            async with place.connect(aname) as files:
                assert await files.ls()
        for aname in ("worker-0000@6", "@8", "worker-0000@", "@07", "worker-0000@seven"):
            said = aname.partition("@")[2]
            with pytest.raises(Stale, match=f"stale epoch {said}, this host's is 7$"):
                async with place.connect(aname):
                    pass
        assert "epoch 7\n" in await place.files.read("status")


@story
async def test_9p_over_a_unix_socket_is_the_same(tmp_path):
    async with hosting(address=parse(f"unix!{tmp_path}/host")) as place:
        assert await place.files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_grow_adds_workers_after_the_last_or_where_it_is_told():
    async with hosting(count=2) as place:
        await place.files.write("ctl", "grow 2")
        assert list(place.host.workers) == [f"worker-{i:04d}" for i in range(4)]
        await place.files.write("ctl", "grow 1 9")
        assert await place.files.ask("hello", "worker-0009") == "simulated: hello"
        await place.files.write("worker-0009/ctl", "shutdown")
        await place.files.write("ctl", "grow 1")
        assert list(place.host.workers)[-1] == "worker-0010", "numbers are not used again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("0", "grow: N must be at least 1"),
        ("-1", "grow: '-1' is not a number 0..10000"),
        ("many", "grow: 'many' is not a number 0..10000"),
        ("10001", "grow: '10001' is not a number 0..10000"),
        ("", "usage: grow N [FIRST]"),
        ("1 2 3", "usage: grow N [FIRST]"),
        ("1 0", "worker-0000 exists already"),
        ("2 9999", "worker numbers end at 9999"),
    ],
)
@story
async def test_a_bad_grow_says_why_and_nothing_of_its_write_happens(words, said):
    async with hosting() as place:
        with pytest.raises(Error) as refused:
            await place.files.write("ctl", f"shutdown\ngrow {words}")
        assert str(refused.value) == said
        assert list(place.host.workers) == ["worker-0000"]
        assert place.shutdowns == []


@story
async def test_shutdown_is_asked_for_by_its_verb_only():
    async with hosting() as place:
        with pytest.raises(Error, match="usage: shutdown"):
            await place.files.write("ctl", "shutdown now")
        assert place.shutdowns == []
        await place.files.write("ctl", "shutdown\n")
        assert place.shutdowns == ["shutdown"]


@story
async def test_status_tells_of_the_engine():
    gate = Gate()
    async with hosting(count=2, gate=gate, slots=1) as place:
        outs = [await place.submitted(f"worker-000{i}", "x" * 100) for i in range(2)]
        gate.allow()
        while (await place.files.attrs("status"))["active"] != "1":
            pass
        status = await place.files.attrs("status")
        assert (status["slots"], status["active"], status["queued"]) == ("1", "1", "1")
        assert (status["type"], status["workers"], status["context"]) == ("tiny", "2", "4096")
        assert status["model"] == "simulated"
        assert "simulated" in status["description"], "it says that it is no model"
        assert int(status["pending_prefill"]) > 0
        gate.open()
        for out in outs:
            await out.read_all()
        status = await place.files.attrs("status")
        assert [status[k] for k in ("active", "queued", "pending_prefill", "pending_decode")] == [
            "0"
        ] * 4
        assert int(status["steps"]) == place.engine.steps > 100


@story
async def test_metrics_are_prometheus_text_and_tell_what_the_cache_saved():
    async with hosting(count=2, slots=1) as place:
        for asked in ("first", "second"):
            await place.files.ask(asked, "worker-0000")
        usage = await place.files.attrs("worker-0000/usage")
        text = await place.files.read("metrics")
        assert '# TYPE llambo_cache_hit_ratio gauge' in text
        families = {f.name: f for f in text_string_to_metric_families(text)}
        value = {sample.name: sample.value for f in families.values() for sample in f.samples}
        assert families["llambo_prompt_tokens"].type == "counter"
        cached = int(usage["cached_tokens"])
        assert value["llambo_cached_tokens_total"] == cached > 0
        prompts = value["llambo_prompt_tokens_total"]
        assert prompts > int(usage["prompt_tokens"]) > cached
        assert value["llambo_cache_hit_ratio"] == cached / prompts
        assert value["llambo_generated_tokens_total"] == len("simulated: firstsimulated: second")
        assert (value["llambo_workers"], value["llambo_slots"]) == (2, 1)
