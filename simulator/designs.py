"""Catalogue of car models, usages and climates, and random draw of one battery design from it.

The car models are plausible, not copies of real ones.  Adding one is one more entry in a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.ageing import NO_KNEE, AgeingParameters, Stress
from simulator.battery_physics import Design, UsageParameters
from simulator.cell import CellParameters, ocv_table
from simulator.climate import WEATHER_PERIODS_DAYS, ClimateParameters
from simulator.driving import DriverParameters, VehicleParameters
from simulator.faults import HazardParameters, draw_fault
from simulator.pack import PackParameters
from simulator.sensors import draw_sensors
from simulator.thermal import ThermalParameters
from telemetry.chemistries import CHEMISTRIES


@dataclass(frozen=True)
class CarModel:
    """A car and its pack; `ac_w` and `dc_w` are the powers of the chargers it uses."""

    name: str
    share: float
    chemistry: str
    cells_in_series: int
    cells_in_parallel: int
    nominal_capacity_ah: float
    series_resistance_ohm: float
    pack_mass_kg: float
    consumption_wh_per_km: float
    ac_w: float
    dc_w: float
    temperature_step_c: float
    vehicle: VehicleParameters

    @property
    def nominal_voltage_v(self) -> float:
        """Nominal voltage of the pack, V."""
        return self.cells_in_series * CHEMISTRIES[self.chemistry].nominal_voltage_v

    @property
    def km_per_cycle(self) -> float:
        """Range of a new pack, km."""
        return self.nominal_voltage_v * self.nominal_capacity_ah / self.consumption_wh_per_km


@dataclass(frozen=True)
class Usage:
    """Usage profile of a car.  `soc`, `depth_of_discharge` and `c_rate` are the means used for ageing."""

    name: str
    share: float
    cycles_per_day: float
    dc_share: float
    soc: float
    depth_of_discharge: float
    c_rate: float
    warming_c: float
    driver: DriverParameters


@dataclass(frozen=True)
class Climate:
    """Climate of a region, degC."""

    name: str
    share: float
    mean_c: float
    season_c: float
    day_c: float
    weather_c: float


# fmt: off
CAR_MODELS: tuple[CarModel, ...] = (
    CarModel("hatchback-52", 0.40, "NMC", 96, 2, 150.0, 0.62e-3, 340.0, 150.0, 11_000.0, 50_000.0, 0.5,
             VehicleParameters(1650.0, 0.66, 0.0090, 0.90, 60_000.0, 350.0, 60.0)),
    CarModel("crossover-64", 0.25, "NMC", 96, 3, 184.0, 0.50e-3, 410.0, 175.0, 11_000.0, 65_000.0, 1.0,
             VehicleParameters(1900.0, 0.76, 0.0095, 0.90, 70_000.0, 400.0, 70.0)),
    CarModel("saloon-71", 0.20, "NCA", 96, 3, 205.0, 0.44e-3, 430.0, 160.0, 11_000.0, 75_000.0, 0.5,
             VehicleParameters(1850.0, 0.58, 0.0085, 0.91, 80_000.0, 400.0, 65.0)),
    CarModel("van-75", 0.15, "LFP", 112, 1, 210.0, 0.46e-3, 560.0, 240.0, 11_000.0, 60_000.0, 1.0,
             VehicleParameters(2500.0, 1.25, 0.0105, 0.88, 60_000.0, 450.0, 90.0)),
)
USAGES: tuple[Usage, ...] = (
    Usage("private", 0.25, 0.55, 0.25, 0.62, 0.40, 0.10, 1.0, DriverParameters(0.45, 0.35, 1.3, 0.010)),
    Usage("delivery", 0.30, 0.80, 0.40, 0.58, 0.60, 0.15, 3.0, DriverParameters(0.80, 0.15, 1.6, 0.008)),
    Usage("motorway", 0.25, 0.70, 0.60, 0.55, 0.65, 0.25, 4.0, DriverParameters(0.20, 0.30, 1.4, 0.012)),
    Usage("taxi", 0.20, 1.15, 0.70, 0.55, 0.65, 0.25, 6.0, DriverParameters(0.65, 0.20, 1.5, 0.008)),
)
CLIMATES: tuple[Climate, ...] = (
    Climate("north", 0.25, 7.0, 10.0, 3.0, 5.0),
    Climate("temperate", 0.45, 13.0, 8.5, 4.0, 4.0),
    Climate("south", 0.30, 21.0, 7.5, 5.0, 3.0),
)
# fmt: on

#: Spread between batteries of one design, as relative standard deviations.
CAPACITY_SPREAD = 0.008
RESISTANCE_SPREAD = 0.04
CALENDAR_SPREAD = 0.12
CYCLE_SPREAD = 0.11
#: Share of packs with a knee: ageing accelerates beyond an onset, with little warning in their telemetry.
KNEE_SHARE = 0.1

HAZARD = HazardParameters(shape=1.6, scale_cycles=6800.0, per_loss=8.0, per_degree=0.03)

#: Typical excess of the new capacity over the nominal capacity.
CAPACITY_RESERVE = 0.01
SPECIFIC_HEAT_J_PER_KG_K = 1000.0
CORE_SHARE_OF_HEAT = 0.7


Entry = TypeVar("Entry", CarModel, Usage, Climate)


def pick(table: tuple[Entry, ...], rng: np.random.Generator) -> Entry:
    """Draw one entry with the probabilities `share`."""
    shares = np.array([entry.share for entry in table])
    return table[int(rng.choice(len(table), p=shares / shares.sum()))]


def centred(rng: np.random.Generator, scale: float, size: int) -> NDArray[np.float64]:
    """Normal deviates shifted to mean 0."""
    values: NDArray[np.float64] = scale * rng.standard_normal(size)
    return np.asarray(values - values.mean(), dtype=np.float64)


def draw_pack(model: CarModel, rng: np.random.Generator) -> PackParameters:
    """Draw the parameters of one pack of a car model."""
    chemistry = CHEMISTRIES[model.chemistry]
    resistance_ohm = model.series_resistance_ohm * np.exp(RESISTANCE_SPREAD * rng.standard_normal())
    cell = CellParameters(
        capacity_ah=model.nominal_capacity_ah,
        series_resistance_ohm=resistance_ohm,
        polarisation_resistance_ohm=0.55 * resistance_ohm,
        polarisation_time_s=rng.uniform(30.0, 50.0),
        activation_temperature_k=2500.0,
        voltage_min_v=chemistry.voltage_min_v,
        voltage_max_v=chemistry.voltage_max_v,
        ocv_v=ocv_table(chemistry),
    )
    heat_capacity = model.pack_mass_kg * SPECIFIC_HEAT_J_PER_KG_K
    thermal = ThermalParameters(
        core_heat_capacity_j_per_k=CORE_SHARE_OF_HEAT * heat_capacity,
        shell_heat_capacity_j_per_k=(1.0 - CORE_SHARE_OF_HEAT) * heat_capacity,
        core_to_shell_w_per_k=rng.uniform(350.0, 450.0),
        shell_to_air_w_per_k=rng.uniform(12.0, 20.0),
        shell_to_coolant_w_per_k=rng.uniform(60.0, 90.0),
    )
    n = model.cells_in_series
    return PackParameters(
        float(n),
        model.nominal_capacity_ah,
        cell,
        thermal,
        centred(rng, 0.002, n),
        centred(rng, 0.004, n),
        centred(rng, 0.02, n),
    )


def draw_ageing(rng: np.random.Generator, ageing_spread: float) -> AgeingParameters:
    """Draw one battery's ageing constants; `ageing_spread` scales the spread between batteries."""
    has_knee = rng.random() < KNEE_SHARE
    onset = rng.uniform(0.08, 0.16)
    return AgeingParameters(
        calendar_per_root_year=0.029 * np.exp(ageing_spread * CALENDAR_SPREAD * rng.standard_normal()),
        calendar_activation_k=4500.0,
        cycle_per_cycle=0.0036 * np.exp(ageing_spread * CYCLE_SPREAD * rng.standard_normal()),
        cycle_activation_k=1500.0,
        knee_onset=onset if has_knee else NO_KNEE,
        knee_cycles=rng.uniform(70.0, 160.0),
        resistance_per_loss=1.9 * np.exp(ageing_spread * 0.12 * rng.standard_normal()),
        resistance_per_cycle=1.0e-4 * np.exp(ageing_spread * 0.2 * rng.standard_normal()),
    )


def draw_climate(climate: Climate, rng: np.random.Generator) -> ClimateParameters:
    """Draw the climate of one battery in a region, with its own weather."""
    phase = rng.uniform(0.0, 2.0 * np.pi, len(WEATHER_PERIODS_DAYS))
    mean_c = climate.mean_c + 1.5 * rng.standard_normal()
    return ClimateParameters(mean_c, climate.season_c, climate.day_c, climate.weather_c, phase)


def draw_design(
    model: CarModel, usage: Usage, rng: np.random.Generator, *, ageing_spread: float, hazard_scale: float
) -> Design:
    """Draw the design of one battery; `hazard_scale` multiplies the hazard of faults."""
    pack = draw_pack(model, rng)
    ageing = draw_ageing(rng, ageing_spread)
    climate = draw_climate(pick(CLIMATES, rng), rng)
    stress = Stress(float("nan"), usage.soc, usage.depth_of_discharge, usage.c_rate)
    cycles_per_day = usage.cycles_per_day * float(np.exp(0.12 * rng.standard_normal()))
    # Multiplying the hazard by h is the same as dividing the threshold by h.
    fault = draw_fault(rng)
    return Design(
        pack=pack,
        new_capacity_ah=model.nominal_capacity_ah * (1.0 + CAPACITY_RESERVE + CAPACITY_SPREAD * rng.standard_normal()),
        ageing=ageing,
        hazard=HAZARD,
        fault=fault._replace(threshold=fault.threshold / hazard_scale),
        vehicle=model.vehicle,
        driver=usage.driver,
        usage=UsageParameters(cycles_per_day, model.km_per_cycle, stress, usage.warming_c),
        climate=climate,
        sensors=draw_sensors(rng, model.temperature_step_c),
    )
