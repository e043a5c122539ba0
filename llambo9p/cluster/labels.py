"""Cache labels: which requests may share cells of a KV cache on a host that does not know users.

A host on plain TCP takes all requests of an orchestrator for one user's.  So each request comes to
it with a label, and the host shares cells only between requests with the same one.  A label is no
identity: it gives no access, and says nothing of the user.  It is a keyed hash of the user's name
and of the label that the request came with (a nested orchestrator's, or the user's own).  The key
is this process's and is never told, so that nobody can compute another user's label, and labels
of two orchestrators never meet.
"""

from __future__ import annotations

import hmac
import secrets

_LENGTH = 32
"""hexadecimal digits: 128 bits"""


class Labels:
    """Those that one orchestrator gives.  Pure but for the random key."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)

    def of(self, user: str, label: str) -> str:
        name = user.encode(errors="surrogatepass")
        said = b"%d:%s%s" % (len(name), name, label.encode(errors="surrogatepass"))
        return hmac.digest(self._key, said, "sha256").hex()[:_LENGTH]
