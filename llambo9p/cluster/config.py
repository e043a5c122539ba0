"""cluster-config.yaml: its keys and defaults, and errors that name the line.

The models below are the one description of the file; an unknown key, a value of the
wrong kind or out of range is refused with `FILE:LINE: key: what is allowed`.  For the
units see `units`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

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

from ..conversation.worker_names import MAX_WORKERS
from ..engine.memory import RopeScaling, parse_kv_type
from ..errors import InvalidArgument
from . import strategies, yaml_text
from .units import AddressText, AnySize, AnyTime, Cores, Memory, Milliseconds, Size, as_list

SIMULATED = "simulated"
"""the `model` of an engine that has none"""

Engine = Literal["local", "ray"]
"""what starts hosts: this machine's processes, or Ray's actors"""
ENGINES = get_args(Engine)


def _parse_model(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must be the name or path of a model")
    return value


def _parse_strategy(value: str) -> str:
    if not strategies.is_known(value):
        raise ValueError(f"must be one of {', '.join(strategies.names())}")
    return value


def _parse_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", value, re.ASCII):
        raise ValueError("must be letters, digits, '.', '_' and '-', at most 64 in all")
    return value


def _check_types(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        raise ValueError("must have a node type")
    return value


def _parse_kv_type(value: str) -> str:
    try:
        parse_kv_type(value)
    except InvalidArgument as error:
        raise ValueError(str(error)) from None
    return value


Port = Annotated[int, Field(ge=1, le=65_535)]
Share = Annotated[float, Field(gt=0, le=1)]


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
    rope_scaling: RopeScaling = "none"
    """how a context_size beyond the one that the model was trained for is made: linear or yarn;
    none: it is refused"""
    kv_type: Annotated[str, AfterValidator(_parse_kv_type)] | None = None
    """llama.cpp's types of K and V, as q8_0/f16, or one for both; default: those with which the
    model's answers depend on nobody else's, where it has such"""
    exact: Literal["any", "required"] = "any"
    """required: a host starts only with a model whose answers are the same bit by bit however it is
    asked, by plain products of matrices when it must be; that is found out first"""
    threads: Annotated[int, Field(ge=1, le=512)] | None = None
    """of the host's decode thread; default: the cores this process may use"""
    slots: Annotated[int, Field(ge=1, le=256)] = 16
    """sequences decoded at once by a host, if the workers' memory allows as many"""
    cache_ram: AnySize = 512 * 2**20
    """bytes of a host's memory for what conversations had in the KV cache when others needed
    its sequences"""
    step_timeout: Annotated[Milliseconds, Field(ge=100)] = 10_000
    """that a decode step of a host may take at least, until the host is lost and is started again;
    ten times the slowest recent step, if that is more"""


class NodeType(_Section):
    count: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 4
    """how many `spawn` starts when it is not told"""
    workers_per_host: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | None = None
    """what one host, a process with the model, serves at most; default: all of the type"""
    resources: Resources = Resources()


class LoadBalancer(_Section):
    strategy: Annotated[str, AfterValidator(_parse_strategy)] = "least-loaded"
    health_check_interval: Milliseconds = 1000
    """between heartbeats"""
    healthy_threshold: Annotated[int, Field(ge=1, le=1000)] = 2
    """heartbeats in a row that are answered before a worker is healthy again"""
    unhealthy_threshold: Annotated[int, Field(ge=1, le=1000)] = 3
    """heartbeats in a row that are not answered before it is not"""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    """how often in a row, without a new token, a request is sent again when its worker fails"""
    timeout: Milliseconds = 30_000
    """without progress of a request, until it is sent to another worker; being queued and being
    read is progress"""


class Orchestrator(_Section):
    engine: Engine = "local"
    """what starts hosts where `spawn` does not say"""
    start_timeout: Milliseconds = 300_000
    """without progress of its model's loading, until the start of a host is given up; on Ray,
    which tells of no progress, of a whole start"""
    auto_scale: bool = False
    """whether workers are started and ended by the load"""
    min_nodes: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    """workers that scaling leaves"""
    max_nodes: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = MAX_WORKERS
    """workers that there may be in all"""
    scale_up_threshold: Share = 0.8
    """of the slots in use or waited for, over `look_back`, above which there are too few"""
    scale_down_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """and below which there are too many"""
    scale_factor: Annotated[float, Field(gt=1, le=100)] = 2.0
    """how many times as many there are then, or as few: see `autoscale`"""
    look_back: Milliseconds = 30_000
    cool_down_up: AnyTime = 10_000
    """after any scaling, before there are more"""
    cool_down_down: AnyTime = 120_000
    """after any scaling, before there are fewer"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_nodes > self.max_nodes:
            raise ValueError(
                f"min_nodes {self.min_nodes} is more than max_nodes {self.max_nodes}"
            )
        if self.scale_down_threshold >= self.scale_up_threshold:
            raise ValueError(
                f"scale_down_threshold {self.scale_down_threshold} is not below "
                f"scale_up_threshold {self.scale_up_threshold}"
            )
        return self


class Network(_Section):
    listen: Annotated[list[AddressText], BeforeValidator(as_list), Field(min_length=1)] = [
        "tcp!127.0.0.1!5640"
    ]
    """one address or several"""
    hosts: Literal["unix", "tcp"] = "unix"
    """what hosts listen on that are started on this machine: unix sockets, or ports"""
    base_port: Port = 9000
    """the first that hosts try"""
    port_range: Annotated[int, Field(ge=1, le=65_535)] = 2000
    """how many they try"""
    discovery: Annotated[list[AddressText], BeforeValidator(as_list)] = []
    """hosts that are mounted when they are there"""
    cluster_id: Annotated[str, AfterValidator(_parse_id)] = "llambo"
    """what tells this cluster from others"""

    @model_validator(mode="after")
    def _are_ports(self) -> Self:
        if self.base_port + self.port_range > 65_536:
            raise ValueError(
                f"base_port {self.base_port} and port_range {self.port_range} go beyond port 65535"
            )
        return self


class Models(_Section):
    path: Annotated[list[Path], BeforeValidator(as_list)] = []
    """directories below which models are looked for"""


class Monitoring(_Section):
    export_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """for metrics over HTTP, 0 for a free one; default: none"""
    export_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    export_figures: bool | None = None
    """whether HTTP, which asks nobody who he is, tells of all users' requests and tokens;
    default: if the orchestrator listens on plain TCP, where everybody is the owner"""
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
    served_by: list[str] = []
    """who may serve unix sockets that we connect to, beside the owner and root"""
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
    orphan_timeout: Milliseconds = 60_000
    """without any client, before a host ends whose orchestrator is gone"""


class DeployedHost(_Section):
    """A `llambo-worker` on another machine."""

    listen: AddressText
    """where it listens there, and is found by the orchestrator"""
    type: str | None = None
    """default: the first"""
    count: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | None = None
    """default: the type's"""


class Deploy(_Section):
    """What `tools/deploy.sh deploy-cluster` installs and starts."""

    orchestrator: AddressText | None = None
    """where those hosts find it; default: where it listens, under TLS if it does"""
    hosts: dict[Annotated[str, Field(pattern=r"^[\w.@:/\[\]][\w.@:/\[\]-]*$")], DeployedHost] = {}
    """by what ssh calls their machines"""


class Limits(_Section):
    """What clients may hold; beyond it they get an error that names the limit."""

    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """requests waiting in one host's engine, and in the orchestrator"""
    queue_per_host: Annotated[int, Field(ge=0, le=1_000_000)] = 16
    """requests that the orchestrator sends to a host beyond its slots; the others wait in it"""
    queue_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """requests of a user other than the owner, waiting or running"""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    connections_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    fids: Annotated[int, Field(ge=16, le=2**24)] = 65_536
    """of a connection; each KiB of a text that is open counts as one"""
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
    """of all histories and system prompts, of prompts that are being answered or the newest of
    their conversations, and of such texts that are open for reading"""
    kept_per_user: Size = 512 * 2**20
    """of those, what is one user's"""
    version_timeout: Milliseconds = 30_000
    """from a connection to its Tversion"""
    reader_timeout: Milliseconds = 300_000
    """without reading any of the replies that are there"""


class Cluster(_Section):
    nodes: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")], NodeType],
        AfterValidator(_check_types),
    ] = {"tiny": NodeType()}
    load_balancer: LoadBalancer = LoadBalancer()
    orchestrator: Orchestrator = Orchestrator()
    network: Network = Network()
    models: Models = Models()
    monitoring: Monitoring = Monitoring()
    security: Security = Security()
    state: State = State()
    deploy: Deploy = Deploy()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _types_exist(self) -> Self:
        for ssh, host in self.deploy.hosts.items():
            if host.type is not None and host.type not in self.nodes:
                raise ValueError(
                    f"deploy.hosts.{ssh}: no node type {host.type!r}; "
                    f"types are {' '.join(self.nodes)}"
                )
        return self

    def overridden(self, models: list[Path], cluster_id: str | None) -> Cluster:
        """With what the environment says: see `environment`.  Raises InvalidArgument."""
        changes: dict[str, _Section] = {}
        if models:
            changes["models"] = Models(path=models)
        if cluster_id is not None:
            try:
                changed = {"cluster_id": _parse_id(cluster_id)}
            except ValueError as e:
                raise InvalidArgument(f"$LLAMBO_CLUSTER_ID: {e}, not {cluster_id!r}") from None
            changes["network"] = self.network.model_copy(update=changed)
        return self.model_copy(update=changes)

    def with_state(self, path: Path) -> Cluster:
        """With another state file."""
        state = self.state.model_copy(update={"path": path})
        return self.model_copy(update={"state": state})

    def with_engine(self, engine: Engine) -> Cluster:
        """With another one where `spawn` does not say."""
        orchestrator = self.orchestrator.model_copy(update={"engine": engine})
        return self.model_copy(update={"orchestrator": orchestrator})

    def node_type(self, name: str) -> NodeType:
        """Raises InvalidArgument naming the types there are."""
        if name not in self.nodes:
            raise InvalidArgument(f"no node type {name!r}; types are {' '.join(self.nodes)}")
        return self.nodes[name]


def is_path(model: str) -> bool:
    """Whether a node type's `model` is a path, and no name."""
    return "/" in model or model.endswith(".gguf")


def absolute(model: str, directory: Path) -> str:
    """The model for those who are not in the directory: a path is absolute, a name stays."""
    return str(directory / model) if is_path(model) else model


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


def dump(cluster: Cluster) -> str:
    """The configuration with all defaults, as `load` takes it."""
    values = cluster.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump({"cluster": values}, sort_keys=False, allow_unicode=True)


def _beside(directory: Path, cluster: Cluster) -> Cluster:
    """The configuration with the files that it names absolute: a relative path starts
    from the directory of the configuration."""
    models = Models(path=[directory / path for path in cluster.models.path])
    state = cluster.state.model_copy(update={"path": directory / cluster.state.path})
    files = {
        name: directory / getattr(cluster.security, name)
        for name in ("cert", "ca")
        if getattr(cluster.security, name) is not None
    }
    nodes = {}
    for name, node in cluster.nodes.items():
        model = absolute(node.resources.model, directory)
        resources = node.resources.model_copy(update={"model": model})
        nodes[name] = node.model_copy(update={"resources": resources})
    security = cluster.security.model_copy(update=files)
    return cluster.model_copy(
        update={"security": security, "nodes": nodes, "models": models, "state": state}
    )


def parse(text: str, name: str) -> Cluster:
    """As `load`, of a text; `name` stands for the file in errors."""
    said = yaml_text.read(text, name, _is_switch)
    problems = said.problems
    if not problems:
        try:
            return _File.model_validate({} if said.value is None else said.value).cluster
        except ValidationError as e:
            for error in e.errors():
                loc = [str(part) for part in error["loc"] if part != "[key]"]
                line = yaml_text.line_of(said.root, loc)
                problems.append(yaml_text.Problem(line, loc, _explain(error, loc)))
    raise InvalidArgument(
        "\n".join(
            f"{name}:{problem.line}: {'.'.join(problem.loc) or 'file'}: {problem.text}"
            for problem in sorted(problems)
        )
    )


def _is_switch(loc: list[str]) -> bool:
    """Whether the key takes yes and no."""
    field = _model(loc[:-1]).get(loc[-1]) if loc else None
    return field is not None and bool in (field.annotation, *get_args(field.annotation))


def _explain(error: Any, loc: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, 1)
        hint = f", did you mean {near[0]!r}?" if near else f"; keys are {', '.join(known)}"
        return "unknown key" + hint
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return message  # of several keys, which it names
    return f"{message}, not {error['input']!r}"


def _known_keys(loc: list[str]) -> list[str]:
    return list(_model(loc))


def _model(loc: list[str]) -> dict[str, Any]:
    """The fields of the section that these keys lead to."""
    model: Any = _File
    for part in loc:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        # without a field it is a name of the user's, in a dict of sections
        args = get_args(model)
        model = field.annotation if field is not None else args[1] if len(args) == 2 else None
    return getattr(model, "model_fields", {})
