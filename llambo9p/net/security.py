"""Who is at the other end of a connection, and as which users it may attach.

Identity is only what was authenticated:

- on a unix socket the peer's uid, which the kernel tells;
- under TLS the common name of its certificate, which our CA signed;
- on plain TCP nothing: whoever can connect is the owner of the process, whatever uname
  it claims (Linux's v9fs says `nobody`).  So plain TCP stays on loopback.

The owner is known in the same ways, and never by what his account is called:

- on a unix socket the owner is the peer with the uid of this process;
- under TLS the owner is the peer whose certificate has the name that is in the server's own
  certificate.  That is then the owner's name everywhere.  A certificate that only has the
  name of the account which runs the process is an ordinary user's, and an account that only
  has the name in the certificate is refused, for its trees would be the owner's.

A uname in Tattach must be the authenticated name, or empty; only peers that *speak for*
others (the owner of the process, uid 0, and whom the configuration names) may give any:
that is how an orchestrator acts for its users on its hosts.

A client checks the server, too (`Trust`): under TLS by the certificate, on a unix socket by the
uid of the process that listens, which must be our own, root's, or that of a user who is named.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509

from ..errors import AuthenticationFailed, InvalidArgument, PermissionDenied
from ..fs.user import User, name_of, owner
from ..p9.words import shown, whole_number
from .address import Address

log = logging.getLogger(__name__)

_SOON = timedelta(days=14)
_UCRED = struct.Struct("3i")
"""pid, uid, gid: unix(7), SO_PEERCRED"""


class Peer:
    """The other end of one connection."""

    __slots__ = ("_any", "_local", "_security", "name")

    def __init__(
        self, security: Security, name: str | None, speaks_for_any: bool, local: bool = False
    ) -> None:
        self._security = security
        self.name = name
        """what was authenticated; None on plain TCP"""
        self._any = speaks_for_any
        self._local = local
        """it is known by its uid"""

    def user(self, uname: str) -> User:
        """The user that a Tattach with `uname` is.  A number stands for the user that has
        it as uid here.  Raises AuthenticationFailed."""
        if self.name is None:
            return self._security.owner
        if uname.isascii() and uname.isdigit():
            uid = whole_number(uname, 0, 2**32 - 1)
            if uid is None:
                raise AuthenticationFailed(
                    f"{AuthenticationFailed.ename}: {shown(uname)} is no uid: they end at 2**32 - 1"
                )
            is_owner = self._local and uid == os.geteuid()
            uname = self._security.owner.name if is_owner else name_of(uid)
        if uname in ("", self.name):
            return self._security.user(self.name)
        if not self._any:
            raise AuthenticationFailed(
                f"{AuthenticationFailed.ename}: this is {self.name}, who cannot attach as "
                f"{shown(uname)}"
            )
        return self._security.user(uname)

    @property
    def user_name(self) -> str | None:
        """The one user that it can be, to whom limits of a user apply; None when it acts as
        the owner, or for others."""
        return None if self._any else self.name


class Security:
    """What the `security` of a configuration says, ready for use by a `Server`."""

    def __init__(
        self,
        *,
        admins: Iterable[str] = (),
        speaks_for: Iterable[str] = (),
        tls: ServerTls | None = None,
    ) -> None:
        self.owner = owner(tls.name if tls is not None else None)
        self.tls = tls.context if tls is not None else None
        """for `tls!` addresses"""
        self._admins = frozenset(admins)
        self._speaks_for = frozenset(speaks_for)

    def user(self, name: str) -> User:
        """The user of that name, which was authenticated."""
        return self.owner if name == self.owner.name else User(name, name in self._admins)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Who is at the other end.  Raises AuthenticationFailed when a certificate has
        no name that a user can have."""
        certificate = transport.get_extra_info("peercert")
        if certificate is not None:
            name = _common_name(certificate)
            return Peer(self, name, name == self.owner.name or name in self._speaks_for)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            return Peer(self, None, True)
        uid = peer_uid(sock)
        if uid == os.geteuid():
            return Peer(self, self.owner.name, True, local=True)
        name = name_of(uid)
        if name == self.owner.name:
            raise AuthenticationFailed(
                f"{AuthenticationFailed.ename}: {name} is the name in this server's certificate, "
                f"and so its owner's, who runs it as {name_of(os.geteuid())}: use a certificate "
                "with a name that no account of this machine has"
            )
        return Peer(self, name, uid == 0 or name in self._speaks_for, local=True)


def peer_uid(sock: socket.socket) -> int:
    """Of the process at the other end of a unix socket; of a server the one that listened."""
    _, uid, _ = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return int(uid)


@dataclass(frozen=True, slots=True)
class Trust:
    """For connecting: what a server is shown, and which servers are believed."""

    tls: ssl.SSLContext | None = None
    """for `tls!` addresses; made by `client_tls`"""
    served_by: frozenset[str] = frozenset()
    """users who may serve unix sockets, beside the one that runs this process and root"""

    def check(self, address: Address, sock: socket.socket) -> None:
        """Raises PermissionDenied when a stranger serves this unix socket.  Whoever may
        write to the directory of a socket can put one of his own there."""
        uid = peer_uid(sock)
        if uid in (0, os.geteuid()) or name_of(uid) in self.served_by:
            return
        raise PermissionDenied(
            f"{PermissionDenied.ename}: {address} is served by {name_of(uid)} (uid {uid}), who "
            f"would read all that is asked there. Only servers of {name_of(os.geteuid())} and of "
            f"root are trusted; to trust {name_of(uid)}, name this user in $LLAMBO_SERVED_BY "
            "where the program that connects is started"
        )


NOBODY_ELSE = Trust()
"""only servers of our own and of root, and none at `tls!` addresses"""


def _common_name(certificate: dict[str, Any]) -> str:
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName" and value:
                return _checked_name(str(value))
    raise AuthenticationFailed(f"{AuthenticationFailed.ename}: the certificate has no common name")


def _checked_name(name: str) -> str:
    """The name, if it can be a user's.  One of digits is none: the next server that we
    attach to as this user would take it for a uid, 0 for root."""
    if not name.isprintable() or (name.isascii() and name.isdigit()):
        raise AuthenticationFailed(
            f"{AuthenticationFailed.ename}: {name!r}, the certificate's common name, is no name"
        )
    return name


class ServerTls(NamedTuple):
    context: ssl.SSLContext
    name: str
    """the common name of the server's certificate: its owner"""


def server_tls(cert: Path, ca: Path) -> ServerTls:
    """For listening: `cert` is a PEM file with our key and certificate; clients must have
    one that `ca` signed.  Raises InvalidArgument naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return ServerTls(_loaded(context, cert, ca), certificate_name(cert))


def certificate_name(cert: Path) -> str:
    """The common name in the first certificate of a PEM file.  Raises InvalidArgument naming
    the file."""
    try:
        first = x509.load_pem_x509_certificates(cert.read_bytes())[0]
        names = first.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except OSError as e:
        raise InvalidArgument(f"{cert}: {e.strerror}") from None
    except ValueError as e:
        raise InvalidArgument(f"{cert}: no PEM file with a certificate: {e}") from None
    if not names:
        raise InvalidArgument(
            f"{cert}: the certificate has no common name, which says who the owner is; "
            "`llamboctl cert server HOST --name OWNER` makes one"
        )
    try:
        return _checked_name(str(names[0].value))
    except AuthenticationFailed as e:
        raise InvalidArgument(f"{cert}: {e}") from None


def client_tls(cert: Path, ca: Path) -> ssl.SSLContext:
    """For connecting: the server must have a certificate by `ca` for its host name."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, ca)


def _loaded(context: ssl.SSLContext, cert: Path, ca: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, password=_no_password(cert))
        _check_time(cert)
    except OSError as e:
        raise InvalidArgument(f"{cert}: {_why(e, 'a key and its certificate')}") from None
    try:
        context.load_verify_locations(ca)
    except OSError as e:
        raise InvalidArgument(f"{ca}: {_why(e, 'certificates')}") from None
    return context


def _check_time(cert: Path) -> None:
    """Raises InvalidArgument when nobody would accept the certificate in this PEM file."""
    try:
        first = x509.load_pem_x509_certificates(cert.read_bytes())[0]
    except ValueError:
        return  # OpenSSL takes more forms of it than this library
    now = datetime.now(UTC)
    if now > first.not_valid_after_utc:
        raise InvalidArgument(
            f"{cert}: the certificate expired on {first.not_valid_after_utc:%Y-%m-%d}"
        )
    if now < first.not_valid_before_utc:
        raise InvalidArgument(
            f"{cert}: the certificate is valid from {first.not_valid_before_utc:%Y-%m-%d} on"
        )
    if first.not_valid_after_utc - now < _SOON:
        log.warning("%s: the certificate expires on %s", cert, first.not_valid_after_utc.date())


def _no_password(cert: Path) -> Callable[[], str]:
    def ask() -> str:
        raise InvalidArgument(f"{cert}: its key is encrypted; nobody is here to be asked for it")

    return ask


def _why(error: OSError, what: str) -> str:
    """An ssl.SSLError is an OSError, too, and says of garbage only where OpenSSL met it."""
    if isinstance(error, ssl.SSLError):
        return f"no PEM file with {what}"
    return error.strerror or str(error)
