"""Statistics of the readings of two real cars (`simulator/tables/sensor_statistics.json`), which size the sensor model.

`python -m validation.real_cars` measures them; `validation/reading_statistics.py` defines them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "tables" / "sensor_statistics.json"


@functools.cache
def stored() -> dict[str, Any]:
    """The content of the table: its source, and for each car the value of each statistic (None: not measurable)."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def values(*names: str) -> list[float]:
    """What was measured for the statistics `names` on all cars.

    Raises:
        ValueError: none of them was measured on any car.
    """
    found = [car[name] for car in stored()["cars"].values() for name in names if car[name] is not None]
    if not found:
        raise ValueError(f"{TABLE.name} has no value of {', '.join(names)}: run python -m validation.real_cars.")
    return found


def span(*names: str) -> tuple[float, float]:
    """The smallest and the largest of `values`."""
    found = values(*names)
    return min(found), max(found)


def share_span(name: str, of: str = "readings") -> tuple[float, float]:
    """Smallest and largest share of readings with an event; where a car has none, half an event is assumed.

    Args:
        name: statistic with the share.
        of: statistic with the number of readings to which it refers.
    """
    shares = [max(share, 0.5 / count) for share, count in zip(values(name), values(of), strict=True)]
    return min(shares), max(shares)
