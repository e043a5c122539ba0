"""cluster-config.yaml: its keys, units and defaults, and errors that name the line.

The models below are the one description of the file; an unknown key, a value of the
wrong kind or out of range is refused with `FILE:LINE: key: what is allowed`.  Units:
`"0.1 core"`, `"128MB"` (powers of 1024), and times in milliseconds.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ..errors import InvalidArgument
from ..net import address

SIMULATED = "simulated"
"""the `model` of an engine that has none"""

_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def _parse_memory(value: Any) -> Any:
    if isinstance(value, str):
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", value, re.IGNORECASE)
        if m is None:
            raise ValueError('must be a size like "128MB" (B, KB, MB, GB, TB)')
        return int(float(m[1]) * _UNITS[m[2].upper()])
    return value


def _parse_cores(value: Any) -> Any:
    if isinstance(value, str):
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:cores?)?\s*", value)
        if m is None:
            raise ValueError('must be a number of cores like "0.1 core"')
        return float(m[1])
    return value


def _parse_address(value: str) -> str:
    try:
        return str(address.parse(value))
    except InvalidArgument as e:
        raise ValueError(str(e)) from None


def _parse_model(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must be the name or path of a model")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_parse_memory), Field(ge=1)]
"""bytes"""
Memory = Annotated[int, BeforeValidator(_parse_memory), Field(ge=2**20)]
"""bytes"""
Cores = Annotated[float, BeforeValidator(_parse_cores), Field(gt=0, le=4096)]
Milliseconds = Annotated[int, Field(ge=1, le=86_400_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Section):
    """What one worker of a type may use."""

    cpu: Cores = 1.0
    memory: Memory = 128 * 2**20
    """that it pays for its host's KV cache; weights and runtime are charged once a host"""
    model: Annotated[str, AfterValidator(_parse_model)] = "default"
    """a name in `models/`, of which `default` is the bundled SmolLM2; the path of a GGUF file,
    which ends in .gguf or has a / in it; or `simulated`"""
    context_size: Annotated[int, Field(ge=64, le=2**20)] = 512
    """tokens"""
    threads: Annotated[int, Field(ge=1, le=512)] | None = None
    """of the host's decode thread; default: the cores this process may use"""
    slots: Annotated[int, Field(ge=1, le=256)] = 16
    """sequences decoded at once by a host, if the workers' memory allows as many"""
    cache_ram: Annotated[int, BeforeValidator(_parse_memory), Field(ge=0)] = 512 * 2**20
    """bytes of a host's memory for what conversations had in the KV cache when others needed
    its sequences"""


class NodeType(_Section):
    count: Annotated[int, Field(ge=1, le=10_000)] = 4
    """how many `spawn` starts when it is not told"""
    resources: Resources = Resources()


class LoadBalancer(_Section):
    strategy: Literal["round-robin", "least-loaded"] = "least-loaded"
    health_check_interval: Milliseconds = 1000
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    """how often a request is sent again when its worker is lost before the first token"""


class Orchestrator(_Section):
    auto_scale: Literal[False] = False
    max_nodes: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """workers that `spawn` will start in all"""


class Network(_Section):
    listen: Annotated[
        list[Annotated[str, AfterValidator(_parse_address)]],
        BeforeValidator(_as_list),
        Field(min_length=1),
    ] = ["tcp!127.0.0.1!5640"]
    """one address or several"""


class Monitoring(_Section):
    export_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """for metrics over HTTP, 0 for a free one; default: none"""
    export_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Security(_Section):
    """See `net.security`."""

    cert: Path | None = None
    """PEM file with this server's key and certificate; `tls!` addresses need it"""
    ca: Path | None = None
    """PEM file with the certificate of the CA that signs everybody's"""
    admins: list[str] = []
    """who may, beside the owner, spawn, drain, shut down ..."""
    speaks_for: list[str] = []
    """who may attach as any user, beside the owner and uid 0: other orchestrators"""
    loopback: bool = True
    """plain TCP on loopback, where every local user is the owner"""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.cert is None) != (self.ca is None):
            raise ValueError("cert and ca must be given together")
        return self

    @property
    def certificates(self) -> tuple[Path, Path] | None:
        """`cert` and `ca`, if there are any."""
        return (self.cert, self.ca) if self.cert is not None and self.ca is not None else None


class State(_Section):
    path: Path = Path("/tmp/llambo-cluster.state")


class Limits(_Section):
    """What clients may hold; beyond it they get an error that names the limit."""

    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """requests waiting in one host's engine, and in the orchestrator"""
    queue_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """requests of a user other than the owner, waiting or running"""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    connections_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    fids: Annotated[int, Field(ge=16, le=2**24)] = 65_536
    """of a connection"""
    fids_per_user: Annotated[int, Field(ge=64, le=2**30)] = 262_144
    """of all his connections"""
    requests: Annotated[int, Field(ge=1, le=65_535)] = 1_024
    """without a reply, of a connection: tags in use"""
    min_msize: Annotated[Size, Field(ge=256, le=2**24)] = 256
    """a client that asks for less is refused"""
    max_msize: Annotated[Size, Field(ge=4096, le=2**24)] = 128 * 2**10
    """a client that asks for more gets this"""
    prompt: Size = 8 * 2**20
    """of one prompt or system prompt"""
    buffered: Size = 256 * 2**20
    """of what all clients have written and not yet asked"""
    buffered_per_user: Size = 128 * 2**20
    """of that, what is one user's"""
    conversations: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """cloned ones of a user, in the orchestrator and in each host"""
    history: Size = 16 * 2**20
    """of one conversation"""
    kept: Size = 2 * 2**30
    """of all histories and system prompts, and of such texts that are open for reading"""
    kept_per_user: Size = 512 * 2**20
    """of those, what is one user's"""
    version_timeout: Milliseconds = 30_000
    """from a connection to its Tversion"""
    reader_timeout: Milliseconds = 300_000
    """without reading any of the replies that are there"""


class Cluster(_Section):
    nodes: dict[Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")], NodeType] = {
        "tiny": NodeType()
    }
    load_balancer: LoadBalancer = LoadBalancer()
    orchestrator: Orchestrator = Orchestrator()
    network: Network = Network()
    monitoring: Monitoring = Monitoring()
    security: Security = Security()
    state: State = State()
    limits: Limits = Limits()

    def node_type(self, name: str) -> NodeType:
        """Raises InvalidArgument naming the types there are."""
        if name not in self.nodes:
            raise InvalidArgument(f"no node type {name!r}; types are {' '.join(self.nodes)}")
        return self.nodes[name]


def is_path(model: str) -> bool:
    """Whether a node type's `model` is a path, and no name."""
    return "/" in model or model.endswith(".gguf")


class _File(_Section):
    cluster: Cluster = Cluster()


def load(path: Path) -> Cluster:
    """The configuration in `path`.

    Raises InvalidArgument with one `FILE:LINE: ...` line for each problem.
    """
    try:
        text = path.read_text()
    except OSError as e:
        raise InvalidArgument(f"{path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise InvalidArgument(f"{path}: not UTF-8 at byte {e.start}") from None
    return _beside(path.absolute().parent, parse(text, str(path)))


def _beside(directory: Path, cluster: Cluster) -> Cluster:
    """The configuration with the files that it names absolute: a relative path starts
    from the directory of the configuration."""
    files = {
        name: directory / getattr(cluster.security, name)
        for name in ("cert", "ca")
        if getattr(cluster.security, name) is not None
    }
    nodes = {}
    for name, node in cluster.nodes.items():
        model = node.resources.model
        if is_path(model):
            model = str(directory / model)
        resources = node.resources.model_copy(update={"model": model})
        nodes[name] = node.model_copy(update={"resources": resources})
    security = cluster.security.model_copy(update=files)
    return cluster.model_copy(update={"security": security, "nodes": nodes})


def parse(text: str, name: str) -> Cluster:
    """As `load`, of a text; `name` stands for the file in errors."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise InvalidArgument(f"{name}{where}: {getattr(e, 'problem', None) or e}") from None
    try:
        return _File.model_validate({} if data is None else data).cluster
    except ValidationError as e:
        problems = []
        for error in e.errors():
            loc = [str(part) for part in error["loc"] if part != "[key]"]
            line = _line_of(root, loc)
            key = ".".join(loc) or "file"
            problems.append(f"{name}:{line}: {key}: {_explain(error, loc)}")
        raise InvalidArgument("\n".join(problems)) from None


def _line_of(node: yaml.Node | None, loc: list[str]) -> int:
    """The line of the deepest key of `loc` that is in the file."""
    line = 1
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == part:
                line, node = key.start_mark.line + 1, value
                break
        else:
            break
    return line


def _explain(error: Any, loc: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, 1)
        hint = f", did you mean {near[0]!r}?" if near else f"; keys are {', '.join(known)}"
        return "unknown key" + hint
    message: str = error["msg"].removeprefix("Value error, ")
    return f"{message}, not {error['input']!r}"


def _known_keys(loc: list[str]) -> list[str]:
    model: Any = _File
    for part in loc:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:  # a name of cluster.nodes
            model = NodeType
        else:
            model = field.annotation
    return list(getattr(model, "model_fields", {}))
