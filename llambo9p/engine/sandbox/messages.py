"""What a child process and its parent say to each other.

A message is its length in 4 bytes, little-endian, and as many bytes of JSON.  The parent imports
this and no more of the child: what the child works with takes a second to load.
"""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTH = struct.Struct("<I")


def encode(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def decode(data: bytes | bytearray) -> dict[str, Any] | None:
    """The message that `data` begins with; None while it is not whole."""
    if len(data) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack_from(data)
    if len(data) < LENGTH.size + size:
        return None
    message: dict[str, Any] = json.loads(data[LENGTH.size : LENGTH.size + size])
    return message
