"""Metrics as texts: Prometheus's format, and JSON.

The collectors of a registry say what there is; what it means is their own business.
"""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, generate_latest


def prometheus(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def as_json(registry: CollectorRegistry) -> str:
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
        for family in registry.collect()
    }
    return json.dumps(families, indent=1) + "\n"
