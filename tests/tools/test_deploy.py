"""deploy.sh from a copy of the checkout to hosts behind a real sshd on loopback.

What llambo9p depends on is not compiled and installed anew: pip is told to leave it, and the
environments that deploy.sh makes find that of this test on $PYTHONPATH, without its llambo9p.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIG = """
cluster:
  nodes:
    tiny: {count: 2, resources: {model: simulated}}
    large: {count: 1, resources: {model: simulated}}
  network:
    listen: ["tcp!127.0.0.1!PORT0", "tls!127.0.0.1!PORT1"]
  security: {cert: ca/server-127.0.0.1.pem, ca: ca/ca.pem}
  state: {path: state}
  deploy:
    hosts:
      one: {listen: "tcp!127.0.0.1!PORT2"}
      two: {listen: "tls!localhost!PORT3", type: large}
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


class Machines:
    """This one, with a checkout, and one behind sshd: the same, with another $HOME."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "checkout"
        self.away = directory / "away"
        self.installed = self.away / ".local/share/llambo"
        self.config = directory / "config.yaml"
        self.state = directory / "state"
        self._ssh = directory / "ssh"
        _copy(self.root)
        site = directory / "site"
        site.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(("llambo9p", "__editable__", "pip", "_distutils")):
                (site / path.name).symlink_to(path)
        self.bin = directory / "bin"
        for made in (self.away, self.bin, self._ssh, directory / "home"):
            made.mkdir(mode=0o700)
        self._shared = {"PYTHONPATH": str(site), "PIP_NO_DEPS": "1"}
        self.env = {
            **os.environ, **self._shared,
            "HOME": str(directory / "home"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "LLAMBO_VENV": sys.prefix,
            "LLAMBO_STATE": str(self.state),
            "XDG_DATA_HOME": str(directory / "data"),
        }  # fmt: skip
        for name in ("CLUSTER_CONFIG", "LLAMBO_ADDR", "LLAMBO_CERT", "LLAMBO_CA", "CMAKE_ARGS"):
            self.env.pop(name, None)

    @contextlib.contextmanager
    def sshd(self) -> Iterator[None]:
        """Serving `one` and `two`; `ssh` in `$PATH` knows them."""
        assert SSHD is not None
        [port] = free_ports(1)
        d = self._ssh
        for key in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", d / key], check=True
            )
        shutil.copy(d / "user.pub", d / "authorized")
        shared = " ".join(f"{k}={v}" for k, v in {**self._shared, "HOME": self.away}.items())
        (d / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {d}/host\nPidFile none\n"
            f"AuthorizedKeysFile {d}/authorized\nStrictModes no\nPermitRootLogin yes\n"
            f"UsePAM no\nPasswordAuthentication no\nSetEnv {shared}\n"
        )
        (d / "known").write_text(f"[127.0.0.1]:{port} {(d / 'host.pub').read_text()}")
        (d / "ssh_config").write_text(
            f"Host one two\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {d}/user\n"
            f"  User {pwd.getpwuid(os.geteuid()).pw_name}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {d}/known\n"
        )
        ssh = self.bin / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {d}/ssh_config "$@"\n')
        ssh.chmod(0o755)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # as its init script does
        log = d / "log"
        process = subprocess.Popen([SSHD, "-D", "-f", d / "sshd_config", "-E", log])
        try:
            while "Server listening" not in (log.read_text() if log.exists() else ""):
                assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait()

    def configure(self, text: str) -> None:
        for i, port in enumerate(self.ports):
            text = text.replace(f"PORT{i}", str(port))
        self.config.write_text(text)

    @property
    def ports(self) -> list[int]:
        if not hasattr(self, "_ports"):
            self._ports = free_ports(4)
        return self._ports

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        words = [self.root / "tools/deploy.sh", command, "--config", self.config, *options]
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=120)

    def out(self, command: str) -> list[str]:
        done = self.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def llamboctl(self, *words: str, directory: Path | None = None) -> str:
        program = self.installed / "bin/llamboctl"
        return subprocess.run(
            [program, *words], env=self.env, check=True, capture_output=True, text=True,
            cwd=directory,
        ).stdout  # fmt: skip

    def pids(self) -> dict[str, int]:
        """Of the hosts that were started away."""
        found = (self.installed / "hosts").glob("*/pid")
        return {path.parent.name: int(path.read_text()) for path in found}

    def close(self) -> None:
        if self.state.exists():
            self.llamboctl("shutdown")
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _copy(to: Path) -> None:
    names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(names, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name, follow_symlinks=False)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.skipif(SSHD is None, reason="needs sshd")
def test_a_checkout_becomes_a_cluster_of_two_machines(machines: Machines) -> None:
    """And each command, given again, leaves all as it is."""
    machines.configure(CONFIG)
    assert machines.out("compile")[0].startswith("✓ compiled: 1 wheels")
    assert machines.out("compile") == [f"✓ compiled: {machines.root}/dist is up to date"]
    prefix = machines.env["XDG_DATA_HOME"] + "/llambo"
    assert machines.out("deploy-local") == [f"✓ installed: {prefix}"]
    assert machines.out("deploy-local") == [f"✓ installed: {prefix} is up to date"]

    def cert(*words: str) -> None:
        program = Path(prefix) / "bin/llamboctl"
        where = ["--dir", machines.config.parent / "ca"]
        subprocess.run([program, "cert", *words, *where], env=machines.env, check=True)

    cert("ca")
    cert("server", "127.0.0.1")
    address = f"tcp!127.0.0.1!{machines.ports[0]}"
    assert machines.out("start") == [f"✓ started: the orchestrator, at {address}"]
    assert machines.out("start") == ["✓ the orchestrator runs already"]
    with machines.sshd():
        said = machines.out("deploy-cluster")
        pids = machines.pids()
        assert len(pids) == 2
        assert {line.split(": ", 1)[0] for line in said} == {"one", "two"}
        assert said.count("one: ✓ registered") == said.count("two: ✓ registered") == 1
        assert f"one: ✓ installed: {machines.installed}" in said
        assert f"two: ✓ installed: {machines.installed} is up to date" in said
        nodes = machines.llamboctl("nodes", "list")
        assert [line.split()[0] for line in nodes.splitlines()[1:]] == [
            "worker-0000", "worker-0001", "worker-0002"
        ]  # fmt: skip
        assert nodes.count(f"tls!localhost!{machines.ports[3]}") == 1

        again = machines.out("deploy-cluster")
        assert machines.pids() == pids
        assert [line for line in again if "up to date" not in line] == [
            line
            for ssh, pid in zip(("one", "two"), (pids[k] for k in sorted(pids)), strict=True)
            for line in (f"{ssh}: ✓ runs already: pid {pid}", f"{ssh}: ✓ registered")
        ]
        assert machines.out("test")[0].startswith("✓ Name a colour. simulated: ")
        assert [line for line in machines.out("status") if ": ✓ runs: pid" in line]

        machines.configure(CONFIG.replace('type: large}', 'type: large, count: 3}'))
        machines.out("deploy-cluster")
        changed = machines.pids()
        assert [name for name in pids if pids[name] != changed[name]] == [
            f"tls-localhost-{machines.ports[3]}"
        ]
        while len(machines.llamboctl("ls", "nodes").split()) < 5:
            time.sleep(0.1)

        os.kill(changed[f"tcp-127.0.0.1-{machines.ports[2]}"], signal.SIGKILL)
        ended = machines.run("status")
        assert ended.returncode == 1 and "one: ✗ does not run" in ended.stdout


def test_check_says_what_there_is_and_what_to_do(machines: Machines) -> None:
    machines.configure("cluster: {network: {listen: tcp!127.0.0.1!PORT0}}")
    good = machines.run("check")
    lines = good.stdout.splitlines()
    assert good.returncode == 0, good.stdout + good.stderr
    assert any(line.startswith("✓ Python 3.") for line in lines)
    assert any(line.startswith("✓ C++ compiler: ") for line in lines)
    assert any(line.startswith("✓ node type tiny: 4 workers, 16 at once, need ") for line in lines)
    assert f"✓ tcp!127.0.0.1!{machines.ports[0]} is free" in lines

    machines.configure("""
cluster:
  nodes:
    none: {resources: {model: none}}
    huge: {resources: {context_size: 1048576, slots: 256, memory: 99TB}}
  network: {listen: "tcp!127.0.0.1!PORT0", hosts: tcp, base_port: PORT0, port_range: 1}
  limits: {connections: 1000000}
""")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", machines.ports[0]))
        taken.listen()
        bad = machines.run("check")
    assert bad.returncode == 1
    lines = bad.stdout.splitlines()
    assert "✗ node type none: node type none: no model 'none'" in bad.stdout, bad.stdout
    assert any("are available: lower context_size or slots" in line for line in lines)
    port = machines.ports[0]
    assert f"✗ tcp!127.0.0.1!{port} is in use: choose another as network.listen" in lines
    assert f"✗ ports {port} to {port}: 0 of 1 are free: choose others by base_port and " in (
        bad.stdout.replace("port_range", "")
    )
    assert any("open files: " in line and "ulimit -Hn 1000256" in line for line in lines)

    machines.configure("cluster:\n  nods: {}\n")
    said = machines.run("check").stdout
    assert f"✗ {machines.config}:2: cluster.nods: unknown key, did you mean 'nodes'?" in said


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("deploy-local", "dist has no wheels: tools/deploy.sh compile"),
        ("deploy-cluster", "nothing is installed in "),
        ("start", "nothing is installed in "),
        ("test", "nothing is installed in "),
    ],
)
def test_what_comes_first_is_told(machines: Machines, command: str, why: str) -> None:
    machines.configure("")
    done = machines.run(command)
    assert done.returncode == 1 and why in done.stderr and not done.stdout


def test_a_wrong_command_is_answered_by_those_there_are(machines: Machines) -> None:
    machines.configure("")
    done = machines.run("deploy")
    assert done.returncode == 2 and "\n  deploy-local " in done.stderr
