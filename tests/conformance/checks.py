"""What runs one check over every tree in every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from llambo9p.p9.dialects import DIALECTS

from .speaker import Speaker, speaking
from .subjects import SUBJECTS, Subject

Check = Callable[[Subject, Speaker], Awaitable[None]]


def in_dialects(*versions: str) -> Callable[[Check], Callable[[str, str], None]]:
    """A test of its own for each tree and each of these dialects."""

    def of(check: Check) -> Callable[[str, str], None]:
        @pytest.mark.parametrize("version", versions)
        @pytest.mark.parametrize("tree", SUBJECTS)
        def test(tree: str, version: str) -> None:
            async def main() -> None:
                async with SUBJECTS[tree]() as subject:
                    async with speaking(subject.address, version, subject.aname) as speaker:
                        await check(subject, speaker)

            asyncio.run(main())

        test.__doc__ = check.__doc__
        return test

    return of


everywhere = in_dialects(*DIALECTS)
