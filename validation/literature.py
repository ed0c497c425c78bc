"""Parameters of cells that PyBaMM's sets lack, from literature: hysteresis, and heat capacities and conductances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hysteresis:
    """Half-width, V, and decay with moved charge (Plett's gamma, per unit of state of charge)."""

    half_width_v: float
    rate: float
    source: str

    def parameters(self) -> dict[str, Any]:
        """Entries of the parameter file."""
        return {
            "hysteresis_v": self.half_width_v,
            "hysteresis_rate": self.rate,
            "hysteresis_source": self.source,
        }


@dataclass(frozen=True)
class Thermal:
    """Heat capacity of a cell, J/K, share of its surface, conductances, W/K; and the charge of that cell, Ah."""

    heat_capacity_j_per_k: float
    surface_share: float
    core_to_surface_w_per_k: float
    surface_to_ambient_w_per_k: float
    capacity_ah: float
    source: str

    def parameters(self, capacity_ah: float) -> dict[str, Any]:
        """Entries of the parameter file of a cell of `capacity_ah`: everything in proportion to capacity."""
        size = capacity_ah / self.capacity_ah
        return {
            "thermal": {
                "core_j_per_k": size * self.heat_capacity_j_per_k * (1.0 - self.surface_share),
                "surface_j_per_k": size * self.heat_capacity_j_per_k * self.surface_share,
                "core_to_surface_w_per_k": size * self.core_to_surface_w_per_k,
                "surface_to_ambient_w_per_k": size * self.surface_to_ambient_w_per_k,
                "surface_to_coolant_w_per_k": 0.0,
            },
            "thermal_source": self.source,
        }


_NO_HYSTERESIS = Hysteresis(0.0, 1.0, "none: small beside that of LFP")
_LIN = "Lin et al. 2014 (doi:10.1016/j.jpowsour.2014.01.097)"
#: Core to surface of a cylinder of 65 to 70 mm; it does not depend on the radius.
_RADIAL_W_PER_K = 1.0 / 1.94
_SURFACE_SHARE = 4.5 / 67.2

HYSTERESIS: dict[str, Hysteresis] = {
    "NMC": _NO_HYSTERESIS,
    "NCA": _NO_HYSTERESIS,
    "LFP": Hysteresis(
        0.010,
        30.0,
        "about 20 mV between charge and discharge: Roscher et al. 2011 (doi:10.1155/2011/984320); the rate, "
        "most of the way within 5 % of the charge, is an estimate",
    ),
}
THERMAL: dict[str, Thermal] = {
    "NMC": Thermal(
        42.775,
        _SURFACE_SHARE,
        _RADIAL_W_PER_K,
        # In series with the way from the core it is the lumped conductance of the set, 0.0531 W/K.
        1.0 / (1.0 / 0.0531 - 1.94),
        5.1532,
        f"heat capacity and cooling of PyBaMM's set OKane2022, lumped; core and surface after {_LIN}",
    ),
    "NCA": Thermal(
        40.0,
        _SURFACE_SHARE,
        _RADIAL_W_PER_K,
        0.042,
        3.0,
        f"estimate: 45 g of 0.9 J/(g K) and 10 W/(m2 K) on the 42 cm2 of a 3 Ah 18650; core and surface after {_LIN}",
    ),
    "LFP": Thermal(67.2, _SURFACE_SHARE, _RADIAL_W_PER_K, 1.0 / 3.08, 2.3, f"A123 26650: {_LIN}"),
}
