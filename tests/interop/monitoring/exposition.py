"""Reads /metrics with Prometheus' own parser and prints each family and sample name, one a line.

usage: exposition.py FILE; the strict parser raises on anything that OpenMetrics does not allow.
"""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

names = set()
with open(sys.argv[1], encoding="utf-8") as file:
    for family in text_string_to_metric_families(file.read()):
        if not family.documentation.strip():
            sys.exit(f"{family.name} has no help text")
        names.update(sample.name for sample in family.samples)
print("\n".join(sorted(names)))
