"""Who is at the other end of a connection, and as which users it may attach.

Identity is only what was authenticated:

- on a unix socket the peer's uid, which the kernel tells;
- under TLS the common name of its certificate, which our CA signed;
- on plain TCP nothing: whoever can connect is the owner of the process, whatever uname
  it claims (Linux's v9fs says `nobody`).  So plain TCP stays on loopback.

A uname in Tattach must be the authenticated name, or empty; only peers that *speak for*
others (the owner of the process, uid 0, and whom the configuration names) may give any:
that is how an orchestrator acts for its users on its hosts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from ..errors import AuthenticationFailed, InvalidArgument
from ..fs.user import User, name_of, owner
from ..p9.words import shown, whole_number

log = logging.getLogger(__name__)

_SOON = timedelta(days=14)
_UCRED = struct.Struct("3i")
"""pid, uid, gid: unix(7), SO_PEERCRED"""


class Peer:
    """The other end of one connection."""

    __slots__ = ("_any", "_security", "name")

    def __init__(self, security: Security, name: str | None, speaks_for_any: bool) -> None:
        self._security = security
        self.name = name
        """what was authenticated; None on plain TCP"""
        self._any = speaks_for_any

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
            uname = name_of(uid)
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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.owner = owner()
        self.tls = tls
        """for `tls!` addresses; made by `server_tls`"""
        self._admins = {self.owner.name, *admins}
        self._speaks_for = {self.owner.name, *speaks_for}

    def user(self, name: str) -> User:
        return User(name, name in self._admins)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Who is at the other end.  Raises AuthenticationFailed when a certificate has
        no name that a user can have."""
        certificate = transport.get_extra_info("peercert")
        if certificate is not None:
            name = _common_name(certificate)
            return Peer(self, name, name in self._speaks_for)
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            _, uid, _ = _UCRED.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            )
            name = name_of(uid)
            return Peer(self, name, uid == 0 or name in self._speaks_for)
        return Peer(self, None, True)


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


def server_tls(cert: Path, ca: Path) -> ssl.SSLContext:
    """For listening: `cert` is a PEM file with our key and certificate; clients must have
    one that `ca` signed.  Raises InvalidArgument naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, cert, ca)


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
