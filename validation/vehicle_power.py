"""Writes `simulator/tables`: battery power of cars on regulatory cycles, second by second, as FASTSim computes it.

    python -m validation.vehicle_power

FASTSim (NREL) runs in an environment of its own (`requirements-fastsim.lock`), so the simulator runs without it.
"""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

from simulator.vehicle_power import DESCRIPTION_FILE, TABLE_FILE
from validation.isolated import python_of

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-fastsim.lock"


def main() -> None:
    """Run FASTSim and write the table and its description."""
    command: list[str | Path] = [python_of("fastsim", LOCK), "-m", "validation.vehicle_power_run"]
    content = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    TABLE_FILE.parent.mkdir(exist_ok=True)
    with TABLE_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["cycle", "time_s", "speed_m_s", *(f"{name}_w" for name in content["vehicles"])])
        for cycle, powers_w in content["powers_w"].items():
            columns = (content["speeds_m_s"][cycle], *(powers_w[name] for name in content["vehicles"]))
            writer.writerows((cycle, second, *row) for second, row in enumerate(zip(*columns, strict=True), 1))
    description = {
        "source": "FASTSim, NREL (Brooker et al. 2015, doi:10.4271/2015-01-0973)",
        "fastsim": content["fastsim"],
        "ambient_c": 22.0,
        "vehicles": content["vehicles"],
    }
    DESCRIPTION_FILE.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
