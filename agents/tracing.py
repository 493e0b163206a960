"""Traces for OpenTelemetry: off, and free of cost, unless an OTEL_* variable says where they go."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agents.spans import Spans

logger = logging.getLogger(__name__)
WHERE: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def spans_of(worker: str, environment: Mapping[str, str]) -> Spans | None:
    """Return what makes the spans of a worker; None where they are not wanted, or the extra is not installed.

    Source of the names: OpenTelemetry's specification, "OpenTelemetry Protocol Exporter", and "General SDK
    Configuration" for OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER.
    """
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    named = next((name for name in WHERE if environment.get(name)), None)
    if off or named is None:
        return None
    try:
        from agents.spans import Spans
    except ImportError as missing:
        logger.warning("%s is set, but there are no traces: %s; pip install 'port-runs[otel]'", named, missing)
        return None
    return Spans(worker)
