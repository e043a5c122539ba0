"""What the environment says of the configuration.

- `$CLUSTER_CONFIG` is the file, where no other is named; `$LLAMBO_ROOT` the directory in whose
  `cluster-config.yaml` it is looked for then, and from which relative paths in the
  environment start: without it the working directory.
- `$LLAMBO_MODELS`, directories separated by `:`, takes the place of `models.path`.
- `$LLAMBO_CLUSTER_ID` takes the place of `network.cluster_id`.
- `$LLAMBO_SERVED_BY`, users separated by commas, is added to `security.served_by`.
"""

from __future__ import annotations

import os
from pathlib import Path

CONFIG_NAME = "cluster-config.yaml"
SERVED_BY = "LLAMBO_SERVED_BY"


def root() -> Path:
    """Absolute, as are all paths of this module."""
    return Path(os.environ.get("LLAMBO_ROOT") or ".").absolute()


def config_path() -> Path | None:
    """The configuration to read when none is named; None when there is none."""
    named = os.environ.get("CLUSTER_CONFIG")
    path = root() / (named or CONFIG_NAME)
    return path if named or path.is_file() else None


def models() -> list[Path]:
    """The directories of `$LLAMBO_MODELS`."""
    return [root() / path for path in os.environ.get("LLAMBO_MODELS", "").split(":") if path]


def cluster_id() -> str | None:
    return os.environ.get("LLAMBO_CLUSTER_ID") or None


def served_by() -> frozenset[str]:
    """Users whose servers on unix sockets are trusted."""
    return frozenset(filter(None, os.environ.get(SERVED_BY, "").split(",")))
