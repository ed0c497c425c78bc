"""Cell chemistries: voltage windows for the state update and open-circuit voltages for the simulator.

Open-circuit voltages are rounded from published characterisations: NMC and NCA after Chen et al. 2020
(doi:10.1149/1945-7111/ab9050) and LFP after Prada et al. 2013 (doi:10.1149/2.053304jes).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chemistry:
    """Parameters of a chemistry; every voltage is that of one cell."""

    name: str
    nominal_voltage_v: float
    voltage_min_v: float
    voltage_max_v: float
    window_edges_v: tuple[float, float, float, float, float]
    ocv_soc: tuple[float, ...]
    ocv_v: tuple[float, ...]


_SOC = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

CHEMISTRIES: dict[str, Chemistry] = {
    c.name: c
    for c in (
        Chemistry(
            "NMC",
            3.65,
            2.5,
            4.2,
            (3.55, 3.65, 3.75, 3.90, 4.05),
            _SOC,
            (2.80, 3.26, 3.41, 3.52, 3.59, 3.64, 3.71, 3.80, 3.90, 4.00, 4.08, 4.12, 4.18),
        ),
        Chemistry(
            "NCA",
            3.60,
            2.5,
            4.2,
            (3.50, 3.60, 3.75, 3.90, 4.05),
            _SOC,
            (2.70, 3.20, 3.35, 3.48, 3.56, 3.63, 3.71, 3.80, 3.89, 3.99, 4.07, 4.12, 4.19),
        ),
        Chemistry(
            "LFP",
            3.20,
            2.0,
            3.65,
            (3.20, 3.28, 3.33, 3.37, 3.45),
            _SOC,
            (2.60, 3.05, 3.18, 3.24, 3.27, 3.285, 3.295, 3.305, 3.325, 3.330, 3.335, 3.345, 3.45),
        ),
    )
}

DEFAULT_CHEMISTRY = "NMC"
CHEMISTRY_NAMES: tuple[str, ...] = tuple(CHEMISTRIES)
#: Identified parameters of cells (`physics.parameters`), which a battery may name as its `cell_parameters`.  States
#: store the index: append at the end.
PARAMETER_SETS: tuple[str, ...] = ("NMC", "NCA", "LFP")


def chemistry(name: str | None) -> Chemistry:
    """The entry for `name` (case does not matter); the default where it is unknown or absent."""
    return CHEMISTRIES.get((name or DEFAULT_CHEMISTRY).upper(), CHEMISTRIES[DEFAULT_CHEMISTRY])
