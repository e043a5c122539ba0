"""The formats of strings that are kept, and how.

llguidance asserts the formats below by patterns of its own.  Those of dates and times let
through what is no date (2023-02-29, the year 0000) or what calendars refuse (a 61st second), so
these three have patterns here.
"""

from __future__ import annotations

BY_LLGUIDANCE = frozenset("duration email hostname ipv4 ipv6 uri uuid".split())
LONGEST = {"hostname": 253}
"""characters, where the format's pattern does not count them all"""
WITHOUT_MEANING = frozenset({"password"})
"""formats that constrain nothing"""

_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
    r"(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[tT]{_TIME}$",
}
