"""The tree mounted by Linux's own v9fs, in its three dialects.

A guest with Debian's kernel is booted once; what its shells do is what a user would
type.  The cluster is `served`'s: nothing here waits for a clock, answers of `HELD` come
when the test lets them.
"""

from __future__ import annotations

import re

import pytest

from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m
from llambo9p.p9.wire import unpack_dirs
from tests.files import Files

from . import infernode
from .guest import Result
from .mounted import Foreground, Mount
from .served import HELD, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def tree(files: Files, directory: str) -> set[str]:
    """The paths of everything below `directory`, as our own client sees it."""
    async with await files.open(directory) as listing:
        entries = unpack_dirs(await listing.read_all())
    paths = {f"{directory}{entry.name}": entry for entry in entries}
    below = [await tree(files, f"{path}/") for path, entry in paths.items() if entry.mode & c.DMDIR]
    return set(paths).union(*below)


# -- looking ---------------------------------------------------------------------------


def test_the_whole_tree_is_listed(mount: Mount, cluster: Served) -> None:
    found = mount.sh("find . | sed s/..//").splitlines()[1:]
    assert set(found) == cluster.call(tree(cluster.running.files, ""))
    lines = mount.sh("cd worker-0001; ls -l [a-z]*").splitlines()
    assert {line.split()[-1]: line.split()[0] for line in lines} == {
        "clone": "-rw-------", "ctl": "-rw-------", "data": "-rw-------",
        "embed": "-rw-------", "grammar": "-rw-------", "history": "-rw-------",
        "logprobs": "-r--------", "out": "-r--------", "prompt": "-rw-------",
        "regex": "-rw-------", "schema": "-rw-------", "status": "-r--------",
        "system": "-rw-------", "tokens": "-rw-------", "usage": "-r--------",
    }  # fmt: skip


def test_files_have_no_length_and_directories_are_directories(mount: Mount) -> None:
    assert mount.sh("stat -c '%n %F %a %s' ctl nodes worker-0001/out").splitlines() == [
        "ctl regular empty file 600 0",
        "nodes directory 555 0",
        "worker-0001/out regular empty file 400 0",
    ]


def test_a_file_is_the_same_file_every_time_and_no_two_are(mount: Mount) -> None:
    inodes = mount.sh("stat -c %i * */*")
    assert len(set(inodes.split())) == len(inodes.split()) > 20
    assert mount.sh("stat -c %i * */*") == inodes


def test_a_file_system_has_no_size(mount: Mount) -> None:
    device, blocks, used, free, percent, where = mount.sh("df . | tail -n 1").split()
    assert (blocks, used, free, where) == ("0", "0", "0", mount.path)
    assert bool(mount.door.seen(d.Tstatfs)) == (mount.dialect == "9p2000.L")


# -- asking ----------------------------------------------------------------------------


def test_prompt_in_answer_out(mount: Mount) -> None:
    assert mount.sh("echo What is a file? >prompt; cat out") == "simulated: What is a file?"
    assert mount.sh("echo And a fid? >>prompt; cat out") == "simulated: And a fid?"
    assert "finish_reason stop\n" in mount.sh("cat usage")


def test_infernodes_view(mount: Mount) -> None:
    assert mount.sh(infernode.SCRIPT).splitlines() == infernode.SAYS


def test_settings_are_changed_by_redirection(mount: Mount) -> None:
    ctl = "worker-0000/ctl"
    assert mount.sh(f"echo max_tokens 4 >{ctl}; grep max_tokens {ctl}") == "max_tokens 4\n"
    assert mount.sh("echo What? >worker-0000/prompt; cat worker-0000/out") == "simu"
    assert mount.sh(f"echo max_tokens 99 >>{ctl}; grep max_tokens {ctl}") == "max_tokens 99\n"
    assert mount.sh(f"cat {ctl} >/tmp/ctl; cp /tmp/ctl {ctl}; cmp /tmp/ctl {ctl}") == ""


def test_only_a_text_is_emptied_by_redirection(mount: Mount) -> None:
    system = "worker-0000/system"
    assert mount.sh(f"echo Be brief. >{system}; cat {system}; : >{system}; cat {system}") == (
        "Be brief.\n"
    )
    prompt = "worker-0000/prompt"
    assert mount.sh(f"echo Who? >{prompt}; : >{prompt}; cat {prompt}; cat worker-0000/out") == (
        "Who?simulated: Who?"
    )


def test_a_prompt_longer_than_a_message_is_one_prompt(mount: Mount) -> None:
    before = mount.door.seen(m.Twrite)
    assert mount.sh("""
        cd worker-0000
        echo reset >ctl
        seq 1 4000 >/tmp/long
        cp /tmp/long prompt
        cat out
    """) == "simulated: 4000"
    assert mount.door.seen(m.Twrite) - before > 2
    assert mount.sh("cd worker-0000; cat prompt; echo") == mount.sh("cat /tmp/long")
    assert mount.sh("grep -c user worker-0000/history") == "1\n"


def test_a_prompt_in_small_pieces_is_one_prompt(mount: Mount) -> None:
    assert mount.sh("""
        cd worker-0000
        echo reset >ctl
        echo Zoë asks: 東京? | dd bs=2 of=prompt conv=notrunc status=none
        dd if=out bs=5 status=none
    """) == "simulated: Zoë asks: 東京?"
    assert mount.sh("grep -c user worker-0000/history") == "1\n"


def test_an_answer_is_copied_and_read_again(mount: Mount) -> None:
    assert mount.sh("""
        echo Again? >worker-0001/prompt
        cp worker-0001/out /tmp/first
        cmp /tmp/first worker-0001/out
        tail -c 6 /tmp/first
    """) == "Again?"


def test_a_query_and_its_answer_on_one_descriptor(mount: Mount) -> None:
    assert mount.sh("""
        exec 3<>data
        for i in 1 2; do
            echo query $i >&3
            head -c 100 <&3
            echo
        done
    """) == "simulated: query 1\nsimulated: query 2\n"


# -- clone -----------------------------------------------------------------------------


def test_a_clone_lives_as_long_as_the_shell_holds_it(mount: Mount) -> None:
    assert mount.sh("""
        exec 3<>clone
        read n <&3
        echo max_tokens 15 >&3
        grep max_tokens $n/ctl
        echo Hello? >$n/prompt
        cat $n/out; echo
        test -d $n
        exec 3>&-
        test -e $n || echo gone
    """) == "max_tokens 15\nsimulated: Hell\ngone\n"


def test_cat_clone_makes_one_conversation(mount: Mount) -> None:
    first, second = mount.sh("cat clone; cat clone").split()
    assert int(second) == int(first) + 1


def test_fifty_shells_at_once(mount: Mount) -> None:
    """All hold their conversations before the first one asks."""
    output = mount.sh("""
        mkfifo /tmp/ready /tmp/go
        exec 4<>/tmp/ready 5<>/tmp/go
        for i in $(seq 50); do
            (
                exec 3<>clone 6</tmp/go 5>&-
                read n <&3
                echo >&4
                cat <&6
                echo shell $i >$n/prompt
                echo $(cat $n/out) in $n
            ) &
        done
        head -n 50 <&4 >/dev/null
        ls -d [0-9]* | wc -l
        exec 5>&-
        wait
        rm /tmp/ready /tmp/go
        ls | grep -c '^[0-9]' || true
    """)
    held, *answers, left = output.splitlines()
    assert (held, left) == ("50", "0")
    said, numbers = zip(*(answer.split(" in ") for answer in answers), strict=True)
    assert sorted(said) == sorted(f"simulated: shell {i}" for i in range(1, 51))
    assert len(set(numbers)) == 50


def step_until_it_is_read(mount: Mount, cluster: Served) -> None:
    """One step; the reader has got what it brought, and asks for more."""
    reads = mount.door.seen(m.Tread)
    cluster.step()
    cluster.until(lambda: mount.door.seen(m.Tread) > reads)


# -- waiting ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["^C", "kill -9"])
def test_a_reader_of_out_comes_back_at_once_and_the_answer_goes_on(
    mount: Mount, cluster: Served, foreground: Foreground, how: str
) -> None:
    flushes = mount.door.seen(m.Tflush)
    mount.sh(f"echo Are you there? >{HELD}/prompt")
    foreground.start(mount, f"cat {HELD}/out; echo cat ended with $?")
    cluster.until(lambda: mount.door.waits(m.Tread))
    if how == "^C":
        foreground.interrupt()
    else:
        mount.sh("kill -9 $(pidof cat)")
    assert foreground.finish().output.endswith(f"cat ended with {130 if how == '^C' else 137}\n")
    assert mount.door.seen(m.Tflush) == flushes + 1
    assert cluster.answering == 1
    cluster.spend()
    assert mount.sh(f"cat {HELD}/out") == "simulated: Are you there?"


def test_an_interrupted_query_stops_while_its_descriptor_is_open(
    mount: Mount, cluster: Served, foreground: Foreground
) -> None:
    flushes = mount.door.seen(m.Tflush)
    foreground.start(
        mount,
        f"exec 3<>{HELD}/data\n"
        "echo Tell me everything. >&3\n"
        "cat <&3\n"
        "echo cat ended with $?\n"
        "sleep 1000\n",
    )
    cluster.until(lambda: mount.door.waits(m.Tread) and cluster.answering)
    foreground.interrupt()
    foreground.wait_for("cat ended with 130\n")
    assert mount.door.seen(m.Tflush) == flushes + 1
    assert cluster.spend() < 3, "steps, of the 32 that the answer would have taken"
    assert "finish_reason cancelled\n" in mount.sh(f"cat {HELD}/usage")


def test_a_query_stops_when_its_descriptor_is_closed(
    mount: Mount, cluster: Served, foreground: Foreground
) -> None:
    foreground.start(
        mount,
        f"exec 3<>{HELD}/data\n"
        "echo Why? >&3\n"
        "dd bs=1 count=1 status=none <&3\n"
        "exec 3>&-\n",
    )
    cluster.step()
    assert foreground.finish() == Result(0, "s")
    assert cluster.spend() < 3
    assert "finish_reason cancelled\n" in mount.sh(f"cat {HELD}/usage")


@pytest.mark.parametrize("flag", ["", "iflag=nonblock"])
def test_a_read_fills_its_count_unless_it_is_nonblocking(
    mount: Mount, cluster: Served, foreground: Foreground, flag: str
) -> None:
    """Linux asks on and on for the rest of the count: `cat out` shows an answer when it
    is whole.  With O_NONBLOCK a read returns what one Tread brought."""
    mount.sh(f"echo Go on. >{HELD}/prompt")
    foreground.start(mount, f"gnu-dd bs=4096 if={HELD}/out {flag} status=noxfer")
    cluster.until(lambda: mount.door.waits(m.Tread))
    for so_far in ("s", "si", "sim"):
        step_until_it_is_read(mount, cluster)
        if flag:
            foreground.wait_for(so_far)
    cluster.spend()
    said = re.fullmatch(
        r"simulated: Go on\.0\+(\d+) records in\n.* records out\n", foreground.finish().output
    )
    assert said is not None
    assert int(said[1]) > 3 if flag else int(said[1]) == 1
