"""Scripts on a real orchestrator, whose workers say back what they are asked."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from llambo9p_tools.dish.builtins import COMMANDS
from llambo9p_tools.dish.completion import verbs
from llambo9p_tools.failure import Failure
from llambo9p_tools.remote import Remote
from llambo9p_tools.which_cluster import find

from tests.test_readme import README
from tests.tools.cluster import environment, llamboctl

from .harness import DISH, Scripts, dish

CONFIG = """
cluster:
  nodes:
    tiny:
      resources: {model: simulated, memory: 16MB}
"""


class Cluster:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        config = directory / "cluster-config.yaml"
        config.write_text(CONFIG)
        self.env = {"LLAMBO_STATE": str(directory / "state"), "CLUSTER_CONFIG": str(config)}
        self.address = self.llamboctl("init", "--listen", "tcp!127.0.0.1!0").strip()
        self.llamboctl("spawn", "--count", "4")

    def llamboctl(self, *words: str) -> str:
        done = llamboctl(*words, **self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dish"))
    yield made
    made.llamboctl("shutdown")


@pytest.fixture
def scripts(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> Scripts:
    return Scripts(cluster.address, capfd)


def test_a_script_asks_every_worker_and_collects_the_answers(cluster, tmp_path):
    script = tmp_path / "ask-all"
    script.write_text(
        "#!/usr/bin/env dish\n"
        "# asks all workers $1; what they say goes to worker $2, too\n"
        "each worker-* {\n"
        "    echo $1 > prompt\n"
        "    cat out\n"
        "} | ! tee answers\n"
        "! sort -r answers | ! cut -d: -f1,3 > $2/prompt\n"
        "cat $2/out\n"
    )
    words = [str(script), "What is a file?", "worker-0002"]
    done = subprocess.run(
        [*DISH, *words], cwd=tmp_path, env=environment(**cluster.env), capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    names = [f"worker-{number:04d}" for number in range(4)]
    collected = [f"{name}: simulated: What is a file?" for name in names]
    assert (tmp_path / "answers").read_text().splitlines() == collected
    # the simulated model says the last line
    summary = f"simulated: {names[0]}: What is a file?"
    assert done.stdout.decode() == "\n".join([*collected, summary])
    summed_up = cluster.llamboctl("cat", "worker-0002/prompt").splitlines()
    assert summed_up == [f"{name}: What is a file?" for name in reversed(names)]


def test_the_seed_s_commands(scripts):
    assert "workers 4\n" in scripts.out("status")
    header, *rows = scripts.out("nodes").splitlines()
    assert header.split()[:4] == ["ID", "TYPE", "STATE", "HEALTH"]
    assert [row.split()[0] for row in rows] == [f"worker-{number:04d}" for number in range(4)]
    asked = "What is distributed computing?"
    assert scripts.out(f"infer {asked}") == f"simulated: {asked}"
    assert scripts.out("ask What's *?") == "simulated: What's *?"
    info = dict(line.split(" ", 1) for line in scripts.out("cluster info").splitlines())
    assert info["address"] == scripts.address and info["healthy"] == "4"
    assert info["models"] == "simulated"
    listed = scripts.out("help").splitlines()
    for line in ("infer <text>", "ask <text>", "cluster info", "status", "nodes", "help"):
        assert any(shown.startswith(f"{line} ") for shown in listed)
    assert set(COMMANDS) <= {shown.split()[0] for shown in listed if shown}
    assert all(len(line) <= 80 for line in listed)


def test_exit_statuses(cluster, scripts):
    assert scripts.out("exit; echo not reached") == ""
    assert dish("-c", "exit 7", **cluster.env).returncode == 7
    assert dish("-c", "{ ls | { exit 8 } }", **cluster.env).returncode == 8
    assert "usage: exit" in scripts.error("exit 256")


def test_a_script_may_come_from_standard_input(cluster):
    done = dish(stdin=b"x=1\necho $x$x\n", **cluster.env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"11\n", b"")


def test_what_fails_is_told_with_its_place_and_ends_the_script(cluster, scripts, tmp_path):
    script = tmp_path / "script"
    script.write_text("pwd\n\n  cat nowhere\necho not reached\n")
    done = dish(str(script), **cluster.env)
    assert (done.returncode, done.stdout) == (1, b"/\n")
    assert done.stderr.decode() == f"dish: {script}:3:3: /nowhere: file does not exist\n"
    assert scripts.error("echo {") == "-c:1:6: a { after a command's name is only for " + (
        "each; quote it"
    )
    assert "nowhere: No such file" in dish("/nowhere", **cluster.env).stderr.decode()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("frobnicate", "no command 'frobnicate'; help lists them, and `! frobnicate` is a program"),
        ("echo $x", "there is no variable x; quote a $ to have one"),
        ("echo $2", "there is no variable 2"),
        ("cat worker-0000", "/worker-0000: is a directory; ls lists it"),
        ("cat \udcff", "/\udcff: the name of a file is UTF-8"),
        ("ls '\0'", "/\0: no name of a file has a NUL in it"),
        ("! a\0b", "! a\0b: embedded null byte"),
        ("cd status", "status: is not a directory"),
        ("cd nowhere", "/nowhere: file does not exist"),
        ("echo hi > nowhere/prompt", "/nowhere/prompt: file does not exist"),
        ("echo frobnicate > ctl", "/ctl: unknown verb frobnicate; verbs are "),
        ("write ctl", "usage: write FILE TEXT"),
        ("infer", "the question is empty"),
        ("each worker-9* { echo }", "worker-9* matches nothing"),
        ("! false", "! false: exit status 1"),
        ("! sh -c 'kill $$'", "! sh: ended by SIGTERM"),
        ("! /nowhere", "! /nowhere: No such file or directory"),
        ("!", "after ! comes a program"),
        ("ls | cat nowhere", "/nowhere: file does not exist"),
        ("cat nowhere | ! cat", "/nowhere: file does not exist"),
        ("mount tcp!127.0.0.1!1 /n", "no cluster answers at tcp!127.0.0.1!1: Connection refused"),
        ("mount nowhere /n", "mount: bad address 'nowhere'"),
        ("mount nowhere", "usage: mount ADDRESS NAME"),
        ("bind nowhere /n", "/nowhere: file does not exist"),
        ("unmount /n", "/n: nothing is mounted or bound there; `ns` shows what is"),
        ("head -n x", "usage: [-n N] [FILE …]"),
        ("tail -f a b", "usage: tail -f [-n N] FILE"),
        ("help frobnicate", "no command 'frobnicate'; help lists them"),
        ("each a worker-000[12] { cat nowhere }", "3 of 3 failed: a: /nowhere: file does not exi"),
    ],
)
def test_failures(scripts, script, why):
    assert re.fullmatch(rf"-c:1:\d+: {re.escape(why)}.*", scripts.error(script))


def test_or_goes_on_and_knows_why(scripts):
    assert scripts.out("cat nowhere || echo $status") == "/nowhere: file does not exist\n"
    assert scripts.out("cat nowhere || ! false || echo $status") == "! false: exit status 1\n"
    assert scripts.out("pwd || echo not reached; echo '('$status')'") == "/\n()\n"


def test_variables_and_what_commands_print(scripts):
    assert scripts.out("x='a  b'; y=$x'c'; echo $y") == "a  bc\n"
    assert scripts.out("x=`{echo a; echo b}; echo -n $x") == "a\nb"
    assert scripts.out("x=1; { x=2 }; ls | { x=3; cat > /system }; echo $x") == "2\n"
    assert scripts.out("echo $1/$2/$*", "a b", "*") == "a b/*/a b *\n"


def test_directories(scripts):
    assert scripts.out("cd worker-0001; pwd; cd ..; pwd; cd worker-0002; cd; pwd") == (
        "/worker-0001\n/\n/\n"
    )
    assert scripts.out("cd worker-0001; query data hi") == "simulated: hi"
    assert scripts.out("ls | { cd nodes; pwd }; pwd") == "/nodes\n/\n"


def test_ls(cluster, scripts):
    assert scripts.out("ls") == cluster.llamboctl("ls")
    assert scripts.out("ls nodes") == cluster.llamboctl("ls", "nodes")
    assert scripts.out("ls -l nodes/worker-0000 status").splitlines()[1].startswith("-r--")
    two = scripts.out("ls nodes models").splitlines()
    assert two[0] == "nodes/worker-0000" and "models/default" in two


def test_redirections(scripts):
    scripts.out("echo 'You are Bob.' > worker-0000/system")
    assert scripts.out("cat < worker-0000/system") == "You are Bob.\n"
    scripts.out("{ echo a; echo b } > worker-0000/system")
    assert scripts.out("cat worker-0000/system") == "a\nb\n"
    scripts.out("echo -n > worker-0000/system")
    assert scripts.out("cat worker-0000/system") == ""
    line = '{"role": "user", "content": "hi"}'
    scripts.out(f"echo '{line}' >> worker-0000/history; echo '{line}' >> worker-0000/history")
    assert scripts.out("cat worker-0000/history").count("hi") == 2
    scripts.out("echo reset > worker-0000/ctl")


@pytest.mark.parametrize(
    "script",
    [
        "{ echo half a question; cat nowhere } > worker-0003/prompt",
        "{ echo half a question; cat nowhere } | cat > worker-0003/prompt",
        "cat status nowhere | ! cat > worker-0003/prompt",
        "cat status | ! sh -c 'cat; exit 1' > worker-0003/prompt",
    ],
)
def test_half_a_prompt_is_not_submitted(scripts, script):
    scripts.out("echo a whole one > worker-0003/prompt; cat worker-0003/out")
    scripts.error(script)
    assert scripts.out("cat worker-0003/prompt") == "a whole one"


def test_pipelines_carry_bytes(cluster, scripts, tmp_path):
    data = bytes(range(256)) * 1000
    (tmp_path / "data").write_bytes(data)
    done = dish("-c", "! cat $1 | cat | ! cat | cat", str(tmp_path / "data"), **cluster.env)
    assert (done.returncode, done.stdout) == (0, data)
    assert scripts.out("cat status | ! wc -l | ! tr -d ' '").strip().isdigit()
    assert scripts.out("! tr a-z A-Z < nodes/worker-0000").startswith("ID WORKER-0000")
    assert dish("-c", "cat", stdin=b"from outside", **cluster.env).stdout == b"from outside"


@pytest.mark.parametrize(
    ("closed", "script", "code"), [("<&-", "cat", 0), (">&-", "cat status", 1), ("2>&-", "cat", 0)]
)
def test_a_standard_descriptor_that_is_closed_is_no_connection(cluster, closed, script, code):
    """It would be number 0 or 1 itself, and be read or written."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *DISH, "-c", script]
    done = subprocess.run(
        command, input=b"", capture_output=True, env=environment(**cluster.env), timeout=60
    )
    assert (done.returncode, done.stdout) == (code, b"")
    assert (b"Bad file descriptor" in done.stderr) == (code == 1)


def test_a_reader_that_has_enough_ends_its_writer(scripts):
    """`events` never ends by itself."""
    assert scripts.out("cat events | head -n 1").count("\n") == 1
    assert scripts.out("cat events | cat | ! head -n 2").count("\n") == 2
    assert scripts.out("! head -n 1 < events").count("\n") == 1
    assert scripts.out("! yes | head -n 3; echo on") == "y\ny\ny\non\n"
    assert scripts.out("cat events | echo on") == "on\n"


def test_heads_and_tails(scripts):
    assert scripts.out("! seq 20 | tail -n 2; ! seq 20 | head -3") == "19\n20\n1\n2\n3\n"
    assert scripts.out("! printf 'a\nb' | tail -n 1") == "b"
    last = scripts.out("cat nodes/worker-0000").splitlines(keepends=True)[-1]
    assert scripts.out("tail -f -n 1 nodes/worker-0000") == last


def test_tail_follows(cluster, scripts):
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *DISH, "-c", "tail -f -n 1 events"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**cluster.env),
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b'{"seq":')
        scripts.out("echo drain worker-0003 > ctl; echo resume worker-0003 > ctl")
        assert b"worker.draining" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == b""
    assert process.returncode == 130


def test_an_interrupt_reaches_programs(cluster):
    script = (
        "! sh -c 'trap ''echo interrupted; exit 3'' INT; echo begun; while :; do sleep 0.1; done'"
    )
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *DISH, "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**cluster.env),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"interrupted\n"
    assert process.returncode == 130


def test_a_reader_that_leaves_is_no_error(cluster):
    forever = "! yes | cat"
    command = f"{' '.join(DISH)} -c '{forever}' | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=environment(**cluster.env), timeout=15
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"y\ny\ny", b"")


def test_a_clone_lasts_as_long_as_the_shell(scripts):
    script = """
        c=`{clone worker-0000}
        echo $c
        ls worker-0000 | ! grep -x '[0-9]*'
        echo hello > $c/prompt; cat $c/out; echo
        cd $c; cat history
    """
    path, number, answer, *history = scripts.out(script).splitlines()
    assert path == f"/worker-0000/{number}" and answer == "simulated: hello"
    assert len(history) == 2
    assert number not in scripts.out("ls worker-0000").split()


def test_the_name_space_is_the_shell_s_own(scripts):
    address = re.search(r"^addr (\S+)", scripts.out("cat nodes/worker-0000"), re.MULTILINE)[1]
    script = """
        mount $1 /n/host
        ls /n; ls / | ! grep -x n
        bind n/host/worker-0001 me
        echo hi > me/prompt; cat /worker-0001/out; echo
        cd /n; pwd; cat host/status | ! head -n 1 | ! wc -l
        ns
        unmount /me; unmount host; ns
        ls /n || echo $status
    """
    assert scripts.out(script, address).split("\n") == [
        *("host", "n", "simulated: hi", "/n", "1"),
        *(f"mount {address} /n/host", "bind /n/host/worker-0001 /me"),
        *("/n: file does not exist", ""),
    ]
    assert "n" not in scripts.out("ls").split()


def test_what_cannot_be_printed_is_told(cluster):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*DISH, "-c", "pwd"], stdout=full, stderr=-1, env=environment(**cluster.env)
        )
    assert done.returncode == 1
    assert done.stderr == b"dish: -c:1:1: standard output: No space left on device\n"


def test_tab_knows_the_verbs_that_ctl_knows(scripts):
    with Remote(find(scripts.address).address) as remote:
        for path in ("/ctl", "/worker-0000/ctl"):
            with pytest.raises(Failure) as refused:
                remote.write(path, b"frobnicate\n")
            known = refused.value.message.partition("verbs are ")[2].split()
            assert verbs(remote, path) == sorted(known)


def test_readme_s_session_is_one(scripts):
    """Each command says what is shown, but for answers of the model, where its prompt says."""
    [session] = re.findall(r"^```console\n(llambo> .*?)^```$", README, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^llambo(\S*)> (.*)\n((?:(?!llambo).*\n)*)", session, re.MULTILINE)
    commands = [f"echo -n \x1e; pwd; {command}" for _, command, _ in shown]
    said = scripts.out("\n".join(commands)).split("\x1e")[1:]
    assert len(said) == len(shown) > 10
    for (directory, command, output), came in zip(shown, said, strict=True):
        where, _, came = came.partition("\n")
        assert where == (directory or "/")
        if re.search(r"infer|query|\bout\b", command):
            assert bool(came.strip()) == bool(output.strip()), f"{command}: {came!r}"
        else:
            # the conversation's number depends on the tests before
            assert re.sub(r"/\d+$", "/1", came) == output, command
    scripts.out("each worker-* { echo max_tokens 512 > ctl }")


def test_no_cluster(tmp_path):
    done = dish("-c", "ls", LLAMBO_STATE=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"dish: no cluster is known")
    assert b"llamboctl init" in done.stderr


def test_llamboctl_has_it_and_explains_it(cluster):
    assert cluster.llamboctl("dish", "-c", "pwd") == "/\n"
    assert cluster.llamboctl("--explain", "dish", "-c", "pwd").startswith("# runs commands")
