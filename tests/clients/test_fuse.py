"""The tree as a file system: shells, coreutils and system calls on a FUSE mount."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.p9 import messages as m

from . import infernode
from .mounts import Mount, Served, mounted, needs_fuse, wait_until

pytestmark = needs_fuse

FILES = [
    "ctl", "data", "grammar", "history", "logprobs", "out", "prompt", "regex", "schema", "status",
    "system", "tokens", "usage"
]  # fmt: skip
MONITOR = ["config", "events", "health", "logs", "metrics", "metrics.json", "metrics.legacy"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@pytest.fixture(scope="module")
def shared(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with mounted(tmp_path_factory.mktemp("mount"), served.address) as mount:
        yield mount


@pytest.fixture
def mount(shared: Mount, served: Served) -> Iterator[Mount]:
    """Every test leaves the server with no fid but the attached one."""
    yield shared
    wait_until(lambda: served.fids() == 1)


def test_the_tree_is_listed(mount):
    names = mount.sh("ls").split()
    workers = [f"worker-{i:04d}" for i in range(3)]
    own = ["balancer", "clone", "fusion", "llm", "models", "nodes", "registry", "workers", *MONITOR]
    assert names == sorted([*FILES, *own, *workers])
    everything = mount.sh("find . -type f").split()
    assert {f"./worker-0002/{name}" for name in FILES} < set(everything)
    assert "./worker-0001:" in mount.sh("ls -lR").splitlines()
    assert mount.sh("ls -a | head -n 3").split() == [".", "..", "balancer"]
    assert mount.sh("ls -d */ worker-*/ctl").split()[:3] == ["fusion/", "llm/", "logs/"]


def test_a_file_is_what_stat_says(mount):
    assert mount.sh("stat -c '%F %a %U %s' out ctl worker-0000") == (
        "regular empty file 400 root 0\nregular empty file 600 root 0\ndirectory 555 root 0\n"
    ).replace("root", subprocess.check_output(["id", "-un"], text=True).strip())
    inodes = mount.sh("stat -c %i * */*").split()
    assert len(set(inodes)) == len(inodes)
    assert inodes == mount.sh("stat -c %i * */*").split()
    listed = dict(line.split()[::-1] for line in mount.sh("ls -i1").splitlines())
    assert listed == dict(zip(mount.sh("ls").split(), inodes, strict=False))
    assert mount.sh("df --output=size,source . | tail -n 1").split()[0] == "0"


def test_a_prompt_is_written_and_its_answer_read(mount):
    assert mount.sh("echo Hello > prompt; cat out") == "simulated: Hello"
    assert mount.sh("echo again >> worker-0001/prompt; cat worker-0001/out") == "simulated: again"
    assert mount.sh("cat worker-0001/prompt") == "again"
    assert mount.sh("tail -c 5 worker-0001/out; wc -c < worker-0001/out") == "again16\n"


def test_infernodes_view(mount) -> None:
    assert mount.sh(infernode.SCRIPT).splitlines() == infernode.SAYS


def test_two_flushes_of_one_open_file_are_one_prompt(mount):
    turns = "cd worker-0002; echo reset > ctl; "
    mount.sh(turns + "{ /bin/echo one; /bin/echo two; } > prompt; cat out > /dev/null")
    assert mount.sh("cat worker-0002/prompt") == "one\ntwo"
    assert mount.sh("wc -l < worker-0002/history").strip() == "2"


def test_opening_a_file_waits_for_the_clunks_before_it(mount):
    """close(2) returns before RELEASE; the next open of that process must not."""
    script = """
        for i in $(seq 400); do
            echo "number $i" > worker-0000/prompt
            read -r answer < worker-0000/out
            [ "$answer" = "simulated: number $i" ] || echo "$i: $answer"
        done"""
    assert mount.sh(script) == ""
    assert mount.sh("for i in $(seq 100); do /bin/echo $i > prompt; cat out; echo; done") == (
        "".join(f"simulated: {i}\n" for i in range(1, 101))
    )


def test_data_answers_on_the_fd_that_asked(mount):
    fd = os.open(mount.path / "data", os.O_RDWR)
    try:
        assert os.read(fd, 100) == b""
        for query in (b"first", b"the second"):
            assert os.write(fd, query) == len(query)
            answer = b""
            while data := os.read(fd, 100):
                answer += data
            assert answer == b"simulated: " + query
    finally:
        os.close(fd)


def test_a_clone_is_held_by_its_open_file(mount):
    script = """
        exec 3<>clone
        n=$(cat <&3)
        echo max_tokens 7 >&3
        grep max_tokens $n/ctl
        echo 'how long' > $n/prompt; cat $n/out; echo
        ls -d $n
        exec 3>&-
        ls -d $n"""
    done = mount.run(script)
    limit, answer, number = done.stdout.splitlines()
    assert (limit, answer) == ("max_tokens 7", "simulat")
    assert done.stderr == f"ls: cannot access '{number}': No such file or directory\n"


def test_looking_at_a_conversation_does_not_keep_it(mount):
    """The kernel remembers what `ls -l` saw; the server holds nothing for that."""
    held = os.open(mount.path / "worker-0001" / "clone", os.O_RDWR)
    number = os.read(held, 100).decode().strip()
    mount.sh(f"ls -lR . > /dev/null; cat worker-0001/{number}/status > /dev/null")
    os.close(held)
    wait_until(lambda: not (mount.path / "worker-0001" / number).exists())


def test_a_text_larger_than_any_message(mount, tmp_path):
    large = tmp_path / "large"
    large.write_text("word " * 200_000 + "\n")
    mount.sh(f"cp {large} system; cmp system {large}; : > system")
    mount.sh(f"dd if={large} of=system bs=300000 status=none; cmp system {large}")
    assert mount.sh(": > system; wc -c < system") == "0\n"


def test_reads_of_any_size_give_the_same(mount):
    mount.sh("echo some words > worker-0000/prompt; cat worker-0000/out")
    for size in (1, 3, 4096, 1 << 20):
        assert mount.sh(f"dd if=worker-0000/out bs={size} status=none") == "simulated: some words"
    assert mount.sh("dd if=worker-0000/out bs=1 skip=11 count=4 status=none") == "some"


@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("echo nonsense > ctl", errno.EINVAL),
        ("echo nonsense >> worker-0000/ctl", errno.EINVAL),
        ("cat nowhere", errno.ENOENT),
        ("cat $'not\\xffutf8'", errno.ENOENT),
        ("echo x > new", errno.EACCES),
        ("echo x > out", errno.EACCES),
        ("mkdir new", errno.EACCES),
        ("rm -f ctl", errno.EACCES),
        ("rmdir nodes", errno.EACCES),
        ("chmod 600 ctl", errno.EACCES),
        ("truncate -s 5 prompt", errno.EACCES),
        ("chown 12345 ctl", errno.EPERM),
        ("mv ctl new", errno.EPERM),
        ("ln ctl new", errno.EPERM),
        ("ln -s ctl new", errno.EPERM),
        ("mkfifo new", errno.EPERM),
        ("cat data", errno.EINVAL),
        ("cat nodes", errno.EISDIR),
        ("ls ctl/below", errno.ENOTDIR),
    ],
)
def test_errors_keep_their_errno(mount, script, number):
    done = mount.run(script)
    assert done.returncode != 0
    assert os.strerror(number) in done.stderr


def test_what_changes_nothing_is_allowed(mount):
    mount.sh("touch ctl; : > ctl; : >> ctl; truncate -s 0 ctl; test -w ctl; sync ctl")


def test_ls_of_a_thousand_entries_asks_for_the_directory_only(mount, served):
    held = [os.open(mount.path / "clone", os.O_RDWR) for _ in range(1000)]
    served.requests()
    try:
        assert len(mount.sh("/bin/ls -l").splitlines()) > 1000
        requests = served.requests()
        assert requests.count("Tread") == 3  # the entries, and their end
        assert len(requests) < 13, requests
    finally:
        for fd in held:
            os.close(fd)


def test_fifty_shells_at_once(mount):
    ask = """
        exec 3<>clone; n=$(cat <&3)
        for i in 1 2 3 4 5; do
            echo "shell %d asks $i" > $n/prompt
            read -r answer < $n/out
            [ "$answer" = "simulated: shell %d asks $i" ] || echo "wrong: $answer"
        done"""
    shells = [
        subprocess.Popen(
            ["bash", "-c", f'cd "$0";{ask % (i, i)}', mount.path],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for i in range(50)
    ]
    for shell in shells:
        assert shell.communicate(timeout=15)[0] == b""


def test_another_worker_of_the_same_name_is_another_file(mount, served):
    """What the kernel knew of is stale, and it looks the name up again."""
    before = os.stat(mount.path / "worker-0002").st_ino
    address = served.another_host(first=2)
    script = f"""
        ls -l > /dev/null
        echo unmount worker-0002 > ctl; echo 'mount {address}' > ctl
        echo Who? > worker-0002/prompt; cat worker-0002/out"""
    assert mount.sh(script) == "simulated: Who?"
    assert os.stat(mount.path / "worker-0002").st_ino != before
    # a shell in the old one's directory is told so
    script = f"""
        cd worker-0002
        echo unmount worker-0002 > ../ctl; echo 'mount {served.host.address}' > ../ctl
        cat status"""
    assert os.strerror(errno.ESTALE) in mount.run(script).stderr


def test_tokens_are_shown_as_they_come(tmp_path: Path) -> None:
    gate = Gate()
    served = Served(1, gate)
    try:
        with mounted(tmp_path, served.address) as mount:
            mount.sh("echo Hello > worker-0000/prompt")
            out = mount.start("cat", f"{mount.path}/worker-0000/out")
            assert out.stdout is not None
            wait_until(lambda: served.pending(m.Tread) == 1)
            for byte in b"simulated: Hello":
                gate.allow()
                assert os.read(out.stdout.fileno(), 100) == bytes([byte])
            gate.open()
            assert out.communicate(timeout=10)[0] == b""
            assert out.returncode == 0
    finally:
        served.close()
