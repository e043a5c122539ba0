"""The commands of a chat, by one table.

Each is given the session and the rest of its line.  It may raise Failure, and then has changed
nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from llambo9p.conversation.history import parse as parse_history
from llambo9p.conversation.history import show as show_history
from llambo9p.engine.base import Message
from llambo9p.errors import InvalidArgument

from .. import show, workers
from ..encoding import without_bom
from ..failure import Failure
from .chat import DEFAULTS

if TYPE_CHECKING:
    from .session import Session

_NONE = "-"
"""the word that takes something back"""


class Command(NamedTuple):
    usage: str
    """what may follow the name"""
    help: str
    run: Callable[[Session, str], None]


def run(session: Session, name: str, rest: str) -> None:
    command = TABLE.get(name)
    if command is None:
        raise _unknown(f"there is no command /{name}", name, TABLE, "/help shows them", "/")
    if rest and not command.usage:
        raise Failure(f"/{name} takes nothing after it")
    if not rest and command.usage and not command.usage.startswith("["):
        raise Failure(f"usage: /{name} {command.usage}")
    command.run(session, rest)


def _unknown(what: str, name: str, known: Iterable[str], where: str, before: str = "") -> Failure:
    """`what` is wrong: perhaps another name is meant, with `before` it; else `where` tells what
    there is."""
    near = difflib.get_close_matches(name, known, 1)
    return Failure(f"{what}; " + (f"did you mean {before}{near[0]}?" if near else where))


def offer(status: dict[str, str]) -> str:
    """What the cluster has, in some words."""
    count = status.get("workers", "0")
    if count == "0":
        return "no workers yet; start some with `llamboctl spawn --count 4`"
    return f"{count} worker{'s'[count == '1' :]}, {status.get('models') or 'no model'}"


# -- the commands ---------------------------------------------------------------------


def _help(session: Session, rest: str) -> None:
    names = [f"/{name} {command.usage}".rstrip() for name, command in TABLE.items()]
    width = max(map(len, names))
    for name, command in zip(names, TABLE.values(), strict=True):
        session.screen.say(f"{name.ljust(width)}  {command.help}")
    session.screen.say(_KEYS)


_KEYS = """
Anything else is asked. Keys:
Enter      asks; after a \\ it begins a new line
Alt-Enter  begins a new line; pasted lines stay together
Tab        completes commands and file names
Up, ^R     what was typed before, and a search in it
^C         stops an answer; twice, when nothing stops it
^D         leaves"""


def _history(session: Session, rest: str) -> None:
    if not session.chat.history:
        session.screen.note("nothing was said yet")
    for number, message in enumerate(session.chat.history):
        if message.role == "assistant":
            session.screen.say(message.content.rstrip("\n"))
            continue
        if number:
            session.screen.gap()
        text = message.content.replace("\n", "\n  ")
        session.screen.say(f"> {text}", bold=True)


def _clear(session: Session, rest: str) -> None:
    session.call(lambda: session.chat.set_history([]))
    session.last = None
    session.screen.note("the conversation is forgotten; settings stay")


def _status(session: Session, rest: str) -> None:
    chat = session.chat
    status = show.words(session.call(lambda: chat.read("status")))
    health = show.words(session.call(lambda: chat.read("health")))
    if not status:
        return  # it was stopped
    states = [f"{health[name]} {name}" for name in ("healthy", "degraded", "draining", "lost")
              if health.get(name, "0") != "0"]  # fmt: skip
    node_type = chat.settings.get("type")
    turns = sum(message.role == "user" for message in chat.history)
    rows = {
        "cluster": health.get("orchestrator", "unknown"),
        "workers": ", ".join(states) or "none; start some with `llamboctl spawn --count 4`",
        "models": status.get("models", "").replace(" ", ", "),
        # to administrators only
        "requests": f"{status['requests']}, {status.get('waiting', '0')} waiting"
        if "requests" in status
        else "",
        "strategy": status.get("strategy", ""),
        "turns": str(turns),
        "answered by": f"{node_type} workers" if node_type else "any worker",
        "system": chat.system,
    }
    for name, value in rows.items():
        if value:
            session.screen.say(f"{name:12} {value}")


def _system(session: Session, rest: str) -> None:
    chat = session.chat
    if rest:
        text = "" if rest == _NONE else rest
        session.call(lambda: chat.set_system(text))
    session.screen.say(chat.system) if chat.system else session.screen.note("no system prompt")


def _set(session: Session, rest: str) -> None:
    chat = session.chat
    name, value = (rest.split(None, 1) + ["", ""])[:2]
    if name and name not in DEFAULTS:
        raise _unknown(f"there is no setting {name}", name, DEFAULTS, "/set shows them")
    if "\n" in value:
        raise Failure(f"{name}: a setting has one line")
    if value:
        session.call(lambda: chat.set(name, DEFAULTS[name] if value == _NONE else value))
    width = max(map(len, DEFAULTS))
    for each, is_now in show.words(session.call(lambda: chat.read_own("ctl"))).items():
        if each == name or (each in DEFAULTS and not name):
            session.screen.say(f"{each.ljust(width)}  {is_now}".rstrip())


def _model(session: Session, rest: str) -> None:
    """A conversation can ask for workers of a node type, and so for a model where all of a
    type have that one."""
    chat = session.chat
    models = session.call(lambda: _models(session))
    session.reader.offer(_offered(models))
    if rest == _NONE:
        session.call(lambda: chat.set("type", ""))
    elif rest:
        node_type = _type_of(rest, models)
        session.call(lambda: chat.set("type", node_type))
    chosen = chat.settings.get("type", "")
    width = max(map(len, models), default=0)
    for node_type, each in models.items():
        mark = "*" if node_type == chosen else " "
        counts = ", ".join(f"{model} ({n})" for model, n in each.items())
        session.screen.say(f"{mark} {node_type.ljust(width)}  {counts}", bold=mark == "*")
    session.screen.note(f"{chosen} workers answer" if chosen else "any worker answers")


def _models(session: Session) -> dict[str, dict[str, int]]:
    """node type -> model -> workers."""
    found: dict[str, dict[str, int]] = {}
    for worker in workers.parse(session.chat.read("workers")):
        each = found.setdefault(worker.type, {})
        model = worker.model.rpartition("/")[2]
        each[model] = each.get(model, 0) + 1
    return found


def _offered(models: dict[str, dict[str, int]]) -> list[str]:
    return [*models, *dict.fromkeys(model for each in models.values() for model in each)]


def _type_of(name: str, models: dict[str, dict[str, int]]) -> str:
    if name in models:
        return name
    for node_type, each in models.items():
        if list(each) == [name]:
            return node_type
    known = _offered(models)
    if name in known:
        raise Failure(f"{name}: one chooses a node type, and none has only this model")
    what = f"no worker is of type {name}, or has a model of that name"
    raise _unknown(what, name, known, "/model shows what there is")


def _save(session: Session, rest: str) -> None:
    path = os.path.expanduser(rest)
    new = os.O_WRONLY | os.O_CREAT
    with _blaming(rest):
        try:
            fd = os.open(path, new | os.O_EXCL, 0o600)
        except FileExistsError:
            if not session.confirm(f"{rest} exists. Overwrite it?"):
                raise Failure(f"{rest} is left as it was") from None
            fd = os.open(path, new, 0o600)
        with os.fdopen(fd, "wb") as f:
            f.truncate()
            os.fchmod(fd, 0o600)
            f.write(show_history(session.chat.history).encode())
    session.screen.note(f"{_count(session.chat.history)} saved in {rest}")


def _load(session: Session, rest: str) -> None:
    with _blaming(rest):
        with open(os.path.expanduser(rest), "rb") as f:
            messages = parse_history(without_bom(f.read()).decode())
    session.call(lambda: session.chat.set_history(messages))
    session.screen.note(f"{_count(messages)} loaded from {rest}; /history shows them")


@contextlib.contextmanager
def _blaming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise Failure(f"{path}: {e.strerror}") from None
    except (InvalidArgument, ValueError) as e:
        raise Failure(f"{path}: {e}") from None


def _count(messages: list[Message]) -> str:
    return f"{len(messages)} message{'s'[len(messages) == 1 :]}"


def _usage(session: Session, rest: str) -> None:
    if session.last is None or not session.last.usage:
        session.screen.note("nothing was answered yet")
        return
    for name, value in session.last.usage.items():
        session.screen.say(f"{name:18} {value}")


def _retry(session: Session, rest: str) -> None:
    chat = session.chat
    asked = chat.asked
    if not asked:
        raise Failure("nothing was asked yet")
    if chat.history[-2:-1] == [Message("user", asked)]:
        session.call(lambda: chat.set_history(chat.history[:-2]))
    session.ask(asked)


def _more(session: Session, rest: str) -> None:
    session.more()


def larger_types(session: Session) -> str:
    """Which node types have a larger context than those that answer, in some words; "" for
    none."""
    chat = session.chat
    contexts: dict[str, int] = {}
    for worker in workers.parse(chat.read("workers")):
        if worker.type not in contexts:
            node = show.words(chat.read(f"nodes/{worker.name}"))
            contexts[worker.type] = int(node.get("context", "0"))
    ours = contexts.get(chat.settings.get("type", ""), max(contexts.values(), default=0))
    larger = {name: context for name, context in contexts.items() if context > ours}
    return ", ".join(
        f"/model {name} has {context} tokens" for name, context in sorted(larger.items())
    )


def _exit(session: Session, rest: str) -> None:
    session.over = True


TABLE = {
    "help": Command("", "this list", _help),
    "history": Command("", "the conversation", _history),
    "clear": Command("", "forget it", _clear),
    "more": Command("", "go on with an answer that was cut", _more),
    "retry": Command("", "ask again, without the last answer", _retry),
    "system": Command("[TEXT|-]", "show or set the system prompt", _system),
    "model": Command("[NAME|-]", "choose a node type or its model", _model),
    "set": Command("[NAME [VALUE|-]]", "show or change settings", _set),
    "save": Command("FILE", "write the conversation, as JSON lines", _save),
    "load": Command("FILE", "go on with a saved conversation", _load),
    "usage": Command("", "what the last answer took", _usage),
    "status": Command("", "the cluster, and our part in it", _status),
    "exit": Command("", "leave", _exit),
}
"""in the order of /help; a usage in brackets may be left out"""


def names() -> Iterator[str]:
    return (f"/{name}" for name in TABLE)
