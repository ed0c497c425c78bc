"""Current profiles for identification and validation, as C-rates at intervals of one second; discharging is positive.

Drive cycles: speed traces of the EPA (UDDS, US06) as in NREL/fastsim (`cycles/*.csv`, m/s by seconds), with road load
of a compact electric car.  The profiles for validation are not used for identification.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_CYCLES = Path(__file__).parent / "cycles"
_MASS_KG, _DRAG_AREA_M2, _ROLLING, _GRAVITY, _AIR_KG_PER_M3 = 1700.0, 0.65, 0.009, 9.81, 1.2
_EFFICIENCY, _REGENERATED, _AUXILIARY_W = 0.9, 0.63, 350.0
_USED = 0.9  # from 95 % to 5 %


class Profile(NamedTuple):
    """C-rates and the state of charge at which they start."""

    soc: float
    c_rate: FloatArray


def drive(cycle: str) -> FloatArray:
    """Battery power of one drive cycle, relative to its peak."""
    speed = np.loadtxt(_CYCLES / f"{cycle}.csv", skiprows=1)
    force = _MASS_KG * np.gradient(speed) + 0.5 * _AIR_KG_PER_M3 * _DRAG_AREA_M2 * speed**2
    force += _ROLLING * _MASS_KG * _GRAVITY * (speed > 0.0)
    wheel_w = force * speed
    power_w = np.where(wheel_w > 0.0, wheel_w / _EFFICIENCY, wheel_w * _REGENERATED) + _AUXILIARY_W
    return np.asarray(power_w / power_w.max())


def _constant(c_rate: float, share: float) -> FloatArray:
    """`c_rate` for as long as it takes to move `share` of the capacity."""
    return np.full(round(3600.0 * share / abs(c_rate)), c_rate)


def _repeated(cycle: FloatArray) -> FloatArray:
    times = int(np.ceil(_USED * 3600.0 / cycle.sum()))
    rates = np.tile(cycle, times)
    return np.asarray(rates[: np.searchsorted(np.cumsum(rates), _USED * 3600.0)])


def _pulses() -> FloatArray:
    """Hybrid pulse power characterisation at every 5 %: 2C for 10 s, 1.5C charge for 10 s, with rests."""
    rest = np.zeros(40)
    one = [np.full(10, 2.0), rest, np.full(10, -1.5), rest, np.full(175, 1.0), np.zeros(600)]
    return np.concatenate(one * 18)


def identification(slow: bool) -> dict[str, Profile]:
    """Profiles that the parameters are fitted to; `slow` halves constant currents (cold)."""
    speed = 0.5 if slow else 1.0
    stages = [_constant(speed * rate, share) for rate, share in ((-1.3, 0.25), (-0.8, 0.3), (-0.5, 0.3))]
    return {
        "pulses": Profile(0.95, _pulses()),
        "us06": Profile(0.95, _repeated(2.0 * drive("us06"))),
        "discharge_half": Profile(0.95, _constant(0.5, _USED)),
        "discharge_fast": Profile(0.95, _constant(speed * 1.5, _USED)),
        "charge": Profile(0.07, np.concatenate([*stages, np.zeros(600)])),
        "charge_third": Profile(0.05, _constant(-0.35, _USED)),
    }


def _dc_charge(slow: bool) -> FloatArray:
    """DC charge in falling stages, as cars do it, from 5 % to 95 %."""
    speed = 0.5 if slow else 1.0
    stages = ((-1.5, 0.25), (-1.0, 0.25), (-0.6, 0.25), (-0.3, 0.15))
    return np.concatenate([_constant(speed * rate, share) for rate, share in stages])


#: Profiles of the validation by name; charging is halved where it is cold.
VALIDATION: dict[str, Callable[[bool], Profile]] = {
    "udds": lambda _: Profile(0.95, _repeated(2.0 * drive("udds"))),
    "dc_charge": lambda slow: Profile(0.05, _dc_charge(slow)),
    "discharge_1c": lambda _: Profile(0.95, _constant(1.0, _USED)),
}
