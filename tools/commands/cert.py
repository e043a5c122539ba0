"""`llamboctl cert`: a small certificate authority, for people who have none.

It owns one directory, readable by its owner only: `ca.pem`, the CA's certificate that
everybody gets; `ca.key`, which stays there; and a `NAME.pem` with key and certificate
for each server and user, which goes to that one.  A certificate's common name is who its
holder is: a server acts under the name of the user that runs it, so that its hosts let
it speak for others.  Nothing that exists is overwritten.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llambo9p.fs.user import owner

from ..failure import Failure
from ..options import beyond_files

_CA_DAYS = 3650
_NAME = re.compile(r"[A-Za-z0-9_][\w.@-]{0,63}", re.ASCII)
"""of a user, or of a server's file"""

_dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=Path("llambo-ca"),
    show_default=True, help="Where the CA is, or will be.",
)  # fmt: skip
_days_option = click.option(
    "--days", type=click.IntRange(1, _CA_DAYS), default=365, show_default=True,
    help="How long it is valid.",
)  # fmt: skip


@click.group()
def cert() -> None:
    """Make certificates for `tls!` addresses, with a CA of your own."""


@cert.command()
@_dir_option
@beyond_files("makes certificates")
def ca(directory: Path) -> None:
    """Make the CA: everybody gets DIR/ca.pem, nobody gets DIR/ca.key."""
    for file in ("ca.key", "ca.pem"):  # one without the other would sign what nobody accepts
        if (directory / file).exists():
            raise Failure(f"{directory} has a CA already: {file}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise Failure(f"{directory}: {e.strerror}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Llambo CA of {owner().name}")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory / "ca.key", _private(key))
    _write(directory / "ca.pem", _public(certificate), mode=0o644)
    click.echo(directory / "ca.pem")


@cert.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--name", default=owner().name, show_default=True,
              help="The owner: whoever has a certificate of this name administers the "
              "server.")  # fmt: skip
@_dir_option
@_days_option
@beyond_files("makes certificates")
def server(hosts: tuple[str, ...], name: str, directory: Path, days: int) -> None:
    """Make DIR/server-HOST.pem for a server that is reached by these names or addresses."""
    _check_name(name)
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", host):
                raise Failure(f"{host!r} is neither a host name nor an address") from None
            names.append(x509.DNSName(host))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    _issue(directory, f"server-{hosts[0].replace(':', '_')}", name, usages, names, days)


@cert.command()
@click.argument("name")
@_dir_option
@_days_option
@beyond_files("makes certificates")
def user(name: str, directory: Path, days: int) -> None:
    """Make DIR/NAME.pem for a user, who puts it with ca.pem into ~/.config/llambo, as
    cert.pem, or names it in $LLAMBO_CERT."""
    _check_name(name)
    if name == "ca":
        raise Failure("a user cannot be called ca: ca.pem is the CA's")
    _issue(directory, name, name, [ExtendedKeyUsageOID.CLIENT_AUTH], [], days)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.isdigit():
        raise Failure(
            f"bad user name {name!r}: use letters, digits, '_', '.', '@' and '-', not digits only"
        )


def _issue(
    directory: Path,
    file: str,
    name: str,
    usages: list[x509.ObjectIdentifier],
    hosts: Iterable[x509.GeneralName],
    days: int,
) -> None:
    path = directory / f"{file}.pem"
    try:
        ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        ca_certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    except FileNotFoundError:
        raise Failure(f"{directory} has no CA: make one with `llamboctl cert ca`") from None
    except (OSError, ValueError, TypeError) as e:
        raise Failure(f"the CA in {directory} cannot be read: {e}") from None
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise Failure(f"the CA in {directory} was not made by `llamboctl cert ca`")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, ca_certificate.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
    )
    alternatives = list(hosts)
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    _write(path, _private(key) + _public(certificate))
    click.echo(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # clocks of other machines may be behind
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Make a new file, whole."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise Failure(f"{path} exists already; move it away to make another") from None
    except OSError as e:
        raise Failure(f"{path}: {e.strerror}") from None
    with os.fdopen(fd, "wb") as f:
        f.write(data)
