"""Units of cluster-config.yaml: `"128MB"`, `"0.1 core"`, `"30s"`, and addresses.

Types for pydantic's models; each turns what stands in the file into one number, and says
what is allowed when it cannot.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InvalidArgument
from ..net import address

_BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DAY = 86_400_000


def _parse_memory(value: Any) -> Any:
    if isinstance(value, str):
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", value, re.IGNORECASE)
        if m is None:
            raise ValueError('must be a size like "128MB" (B, KB, MB, GB, TB)')
        return int(float(m[1]) * _BYTES[m[2].upper()])
    return value


def _parse_cores(value: Any) -> Any:
    if isinstance(value, str):
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:cores?)?\s*", value)
        if m is None:
            raise ValueError('must be a number of cores like "0.1 core"')
        return float(m[1])
    return value


def _parse_time(value: Any) -> Any:
    if isinstance(value, str):
        m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*", value)
        if m is None:
            raise ValueError('must be a time like "30s" (ms, s, m, h) or a number of ms')
        return round(float(m[1]) * _MILLISECONDS[m[2]])
    return value


def _parse_address(value: str) -> str:
    try:
        return str(address.parse(value))
    except InvalidArgument as e:
        raise ValueError(str(e)) from None


def as_list(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


AnySize = Annotated[int, BeforeValidator(_parse_memory), Field(ge=0)]
"""bytes, or none; powers of 1024"""
Size = Annotated[AnySize, Field(ge=1)]
"""bytes"""
Memory = Annotated[AnySize, Field(ge=2**20)]
"""bytes"""
Cores = Annotated[float, BeforeValidator(_parse_cores), Field(gt=0, le=4096)]
AnyTime = Annotated[int, BeforeValidator(_parse_time), Field(ge=0, le=_DAY)]
"""milliseconds, or none"""
Milliseconds = Annotated[AnyTime, Field(ge=1)]
AddressText = Annotated[str, AfterValidator(_parse_address)]
