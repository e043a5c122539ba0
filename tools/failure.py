"""The exceptions by which a tool gives up: a sentence for the user."""

from __future__ import annotations

import click


class Failure(click.ClickException):
    """Ends the program with exit code 1 and one line on stderr.  The line says what
    went wrong and, where that helps, what to do next."""


class NoCluster(Failure):
    """There is none to talk to."""
