"""Our certificate, for clusters at `tls!` addresses.

`$LLAMBO_CERT` names a PEM file with our key and certificate, `$LLAMBO_CA` one with the
CA's certificate; by default `cert.pem` and `ca.pem` in ~/.config/llambo, and a CA beside
the certificate where only that is named.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from llambo9p.errors import InvalidArgument
from llambo9p.net.address import Address
from llambo9p.net.security import client_tls

from .failure import Failure


def tls_for(address: Address) -> ssl.SSLContext | None:
    """What a connection to `address` needs; None where that is nothing.  Raises Failure."""
    if address.net != "tls":
        return None
    named = os.environ.get("LLAMBO_CERT")
    cert = Path(named) if named else Path.home() / ".config/llambo/cert.pem"
    ca = Path(os.environ.get("LLAMBO_CA") or cert.with_name("ca.pem"))
    try:
        return client_tls(cert, ca)
    except InvalidArgument as e:
        raise Failure(
            f"{address} needs a certificate: {e}. Set $LLAMBO_CERT and $LLAMBO_CA to what "
            "`llamboctl cert user` made for you"
        ) from None
