"""Metrics as texts: Prometheus's format, and JSON.

A `Collector` says what there is; what it means is its own business.
"""

from __future__ import annotations

import json

from prometheus_client import generate_latest
from prometheus_client.registry import Collector


def prometheus(collector: Collector) -> str:
    return generate_latest(collector).decode()


def as_json(collector: Collector) -> str:
    """`{NAME: {"type", "help", "samples": [{"name", "labels", "value"}]}}`, where a histogram
    has a sample for each bucket, as in Prometheus's format."""
    families = {
        family.name: {
            "type": family.type,
            "help": family.documentation,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for sample in family.samples
            ],
        }
        for family in collector.collect()
    }
    return json.dumps(families, indent=1) + "\n"
