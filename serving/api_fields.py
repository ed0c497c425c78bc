"""Conversion of times for rows and responses."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(time_s: float) -> datetime:
    """Convert seconds since the epoch to a UTC time with microsecond precision."""
    return datetime.fromtimestamp(time_s, UTC)
