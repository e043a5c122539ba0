"""Which servers we trust, and our certificate, for clusters at `tls!` addresses.

A unix socket must be served by the user of the tool, by root, or by a user of
`$LLAMBO_SERVED_BY` (names separated by commas), to which `--served-by` adds.

`$LLAMBO_CERT` names a PEM file with our key and certificate, `$LLAMBO_CA` one with the
CA's certificate; by default `cert.pem` and `ca.pem` in ~/.config/llambo, and a CA beside
the certificate where only that is named.
"""

from __future__ import annotations

import os
from pathlib import Path

from llambo9p.cluster import environment
from llambo9p.errors import InvalidArgument
from llambo9p.net.address import Address
from llambo9p.net.security import Trust, client_tls

from .failure import Failure


def trust_for(address: Address) -> Trust:
    """What a connection to `address` needs.  Raises Failure."""
    if address.net != "tls":
        return Trust(served_by=environment.served_by())
    named = os.environ.get("LLAMBO_CERT")
    cert = Path(named) if named else Path.home() / ".config/llambo/cert.pem"
    ca = Path(os.environ.get("LLAMBO_CA") or cert.with_name("ca.pem"))
    try:
        return Trust(client_tls(cert, ca))
    except InvalidArgument as e:
        raise Failure(
            f"{address} needs a certificate: {e}. Set $LLAMBO_CERT and $LLAMBO_CA to what "
            "`llamboctl cert user NAME` made for you"
        ) from None
