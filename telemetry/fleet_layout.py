"""Names of the files of a simulated fleet in parts: a manifest, and for each table a folder with a file for each part.

    DIR/manifest.json
    DIR/readings/part-00000.parquet, part-00001.parquet, ...
    DIR/cycles/..., DIR/batteries/...

The folder may hold further tables, which no source reads.
"""

from __future__ import annotations

MANIFEST = "manifest.json"
READINGS, CYCLES, BATTERIES = "readings", "cycles", "batteries"
#: Number of the layout, an entry of the manifest.
LAYOUT = 1


def part_file(table: str, part: int) -> str:
    """Path of a part of a table, relative to the folder of the fleet."""
    return f"{table}/part-{part:05d}.parquet"
