"""Counts batteries whose rows cannot be read, so that one bad row costs neither the others nor the process."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg2

logger = logging.getLogger(__name__)

#: Errors that a value can cause: of Python and NumPy, of a statement's data, and of a constraint.
DATA_ERRORS = (ValueError, ArithmeticError, TypeError, LookupError, psycopg2.DataError, psycopg2.IntegrityError)
#: Batteries that are remembered as logged; beyond it the count alone tells.
_MAX_LOGGED = 10_000


class UnreadableRows:
    """Thread-safe counter by step; each battery and step is logged once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of skipped batteries by step, each time that they were skipped."""
        with self._lock:
            return dict(self._counts)

    def add(self, step: str, battery_id: str, reason: object) -> None:
        """Count a battery that `step` skips."""
        with self._lock:
            self._counts[step] += 1
            if (step, battery_id) in self._logged or len(self._logged) >= _MAX_LOGGED:
                return
            self._logged.add((step, battery_id))
        sentence = str(reason).strip().split("\n")[0] or type(reason).__name__
        logger.warning("%s: battery %s is left out, its rows cannot be read: %s", step, battery_id, sentence)

    @contextmanager
    def skipping(self, step: str, battery_id: str) -> Iterator[None]:
        """Skip the rest of the block after an error that a value of the battery causes."""
        try:
            yield
        except DATA_ERRORS as error:
            self.add(step, battery_id, error)
