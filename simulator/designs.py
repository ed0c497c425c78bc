"""Catalogue of cars, usages and climates, and random draw of one battery design from it.

Shares and magnitudes are from publications, and were set before any model was trained on the fleet; the sources are in
docs/decisions/0029.  Adding a car is one more entry in a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from physics.ageing.model import MODELS
from physics.cell import CellParameters
from physics.pack import PackParameters
from physics.parameters import cell_parameters, stored
from physics.thermal import ThermalParameters
from simulator.battery_state import AgeingParameters, Design
from simulator.bms import ChargeCounter, ocv_table
from simulator.climate import WEATHER_PERIODS_DAYS, ClimateParameters
from simulator.driving import (
    HIGHWAY,
    TOWN,
    CycleTable,
    DriverParameters,
    VehicleParameters,
    cycle_table,
)
from simulator.faults import HAZARD_TABLE, draw_plan
from simulator.sensors import draw_sensors
from simulator.use import Consumption, UsageParameters
from simulator.vehicle_power import drives, vehicles
from telemetry.chemistries import CHEMISTRIES


@dataclass(frozen=True)
class CarModel:
    """A car and its pack; `vehicle` names its power table, `ac_w` and `dc_w` are the powers of the chargers it uses."""

    name: str
    share: float
    vehicle: str
    chemistry: str
    cells_in_series: int
    cells_in_parallel: int
    nominal_capacity_ah: float
    pack_mass_kg: float
    has_coolant: bool
    ac_w: float
    dc_w: float
    cabin_w_per_k: float
    temperature_step_c: float

    @property
    def nominal_voltage_v(self) -> float:
        """Nominal voltage of the pack, V."""
        return self.cells_in_series * CHEMISTRIES[self.chemistry].nominal_voltage_v


@dataclass(frozen=True)
class Usage:
    """Usage profile of a car, see `simulator.use.UsageParameters`."""

    name: str
    share: float
    km_per_day: float
    km_spread: float
    weekday_share: float
    weekend_share: float
    long_share: float
    highway_share: float
    charge_below: float
    target_soc: float
    dc_share: float


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
    CarModel("leaf-30", 0.22, "leaf", "NMC", 96, 2, 83.0, 290.0, False, 6_600.0, 46_000.0, 60.0, 0.5),
    CarModel("zoe-52", 0.15, "zoe", "NMC", 96, 2, 156.0, 326.0, True, 11_000.0, 46_000.0, 60.0, 0.5),
    CarModel("bolt-66", 0.07, "bolt", "NMC", 96, 3, 189.0, 430.0, True, 7_200.0, 55_000.0, 60.0, 1.0),
    CarModel("model3-79", 0.28, "model_3", "NCA", 96, 46, 225.0, 480.0, True, 11_000.0, 120_000.0, 55.0, 0.5),
    CarModel("model3-55", 0.28, "model_3", "LFP", 106, 1, 161.5, 440.0, True, 11_000.0, 100_000.0, 55.0, 0.5),
)
USAGES: tuple[Usage, ...] = (
    Usage("private", 0.15, 42.0, 0.7, 0.85, 0.75, 0.02, 0.40, 0.50, 0.85, 0.10),
    Usage("company", 0.35, 95.0, 0.6, 0.95, 0.55, 0.04, 0.65, 0.60, 0.90, 0.25),
    Usage("delivery", 0.30, 110.0, 0.3, 0.98, 0.30, 0.00, 0.15, 0.75, 0.95, 0.20),
    Usage("taxi", 0.20, 210.0, 0.3, 0.97, 0.90, 0.02, 0.35, 0.80, 0.95, 0.60),
)
CLIMATES: tuple[Climate, ...] = (
    Climate("cold", 0.25, 6.0, 11.0, 3.5, 5.0),
    Climate("temperate", 0.40, 12.0, 8.0, 4.0, 4.0),
    Climate("warm", 0.22, 18.5, 8.5, 5.5, 3.0),
    Climate("hot", 0.13, 25.0, 8.0, 6.5, 2.5),
)
# fmt: on

#: Relative standard deviation of the capacity and resistance of the cells of a pack (Rumpf et al. 2017,
#: doi:10.1016/j.est.2017.09.010: 0.3 % and 0.7 % among 600 new cells), here of groups of parallel cells.
CELL_CAPACITY_SPREAD, CELL_RESISTANCE_SPREAD = 0.004, 0.008
#: Between packs.
PACK_CAPACITY_SPREAD, PACK_RESISTANCE_SPREAD = 0.008, 0.04
#: Standard deviation of the logarithm of the ageing speed, of packs and of the cells within one.
PACK_AGEING_SPREAD, CELL_AGEING_SPREAD = 0.30, 0.08
#: Median speed relative to the laboratory's cells, from the mean loss of cars in service.
AGEING_SPEED = 1.0
#: Share of the NMC packs whose cells have a knee.
KNEE_SHARE = 0.1
#: Excess of the new capacity over the nominal capacity.
CAPACITY_RESERVE = 0.01
SPECIFIC_HEAT_J_PER_KG_K = 1000.0
CORE_SHARE_OF_HEAT = 0.7
#: Between the coolant's mean temperature and that at its ends.
COOLANT_RISE_C = 1.5
#: Loss by which the group is chosen that is the weakest at the end of life; it rises with the root of the speed.
LATE_LOSS = 0.12
LONG_TRIP_KM = 280.0
INTERRUPTED_SHARE = 0.08


Entry = TypeVar("Entry", CarModel, Usage, Climate)


def pick(table: tuple[Entry, ...], rng: np.random.Generator) -> Entry:
    """Draw one entry with the probabilities `share`."""
    shares = np.array([entry.share for entry in table])
    return table[int(rng.choice(len(table), p=shares / shares.sum()))]


@cache
def cell_of(chemistry: str) -> CellParameters:
    """Parameters of the cell of a chemistry."""
    return cell_parameters(stored(chemistry))


@cache
def counted_ocv(chemistry: str) -> NDArray[np.float64]:
    """Table by which the battery management system corrects the charge."""
    return ocv_table(cell_of(chemistry))


@cache
def cycles_of(vehicle: str) -> CycleTable:
    """Driving cycles of a car."""
    table = drives()
    return cycle_table(table[vehicle, TOWN], table[vehicle, HIGHWAY])


def draw_pack(
    model: CarModel, rng: np.random.Generator, *, cell: CellParameters | None = None, is_full: bool = False
) -> tuple[PackParameters, NDArray[np.float64]]:
    """Draw the parameters of one pack of a car model, and the ageing speed of its groups relative to the pack's.

    Group 0 has the smallest capacity when new, group 1 the smallest at the end of life, the last one the largest.

    Args:
        cell: its cells; None: those of the model's chemistry.
        is_full: simulate every series group instead of these three and the mean of the others.
    """
    cell, n = cell or cell_of(model.chemistry), model.cells_in_series
    reserve = 1.0 + CAPACITY_RESERVE + PACK_CAPACITY_SPREAD * rng.standard_normal()
    # The cells in parallel of a group differ less in their mean.
    within = 1.0 / np.sqrt(model.cells_in_parallel)
    capacity = 1.0 + within * CELL_CAPACITY_SPREAD * rng.standard_normal(n)
    resistance = np.exp(within * CELL_RESISTANCE_SPREAD * rng.standard_normal(n))
    speed = np.exp(within * CELL_AGEING_SPREAD * rng.standard_normal(n))
    coolant_c = rng.permutation(np.linspace(COOLANT_RISE_C, -COOLANT_RISE_C, n))
    resistance *= np.exp(PACK_RESISTANCE_SPREAD * rng.standard_normal())
    order = np.argsort(capacity)
    late = 1 + int(np.argmin((capacity - LATE_LOSS * speed)[order[1:]]))
    order[[1, late]] = order[[late, 1]]
    columns = [capacity[order], resistance[order], speed[order], coolant_c[order]]
    groups = np.ones(n)
    if not is_full:
        columns = [np.array([*values[:2], values[2:-1].mean(), values[-1]]) for values in columns]
        groups = np.array([1.0, 1.0, n - 3.0, 1.0])
    capacity, resistance, speed, coolant_c = columns
    parallel = model.nominal_capacity_ah * reserve / cell.capacity_ah
    each = 1.0 / (n * parallel)
    heat_j_per_k = model.pack_mass_kg * SPECIFIC_HEAT_J_PER_KG_K * each
    coolant = rng.uniform(60.0, 90.0)
    thermal = ThermalParameters(
        core_j_per_k=CORE_SHARE_OF_HEAT * heat_j_per_k,
        surface_j_per_k=(1.0 - CORE_SHARE_OF_HEAT) * heat_j_per_k,
        core_to_surface_w_per_k=rng.uniform(350.0, 450.0) * each,
        surface_to_ambient_w_per_k=rng.uniform(12.0, 20.0) * each,
        surface_to_coolant_w_per_k=coolant * each if model.has_coolant else 0.0,
    )
    pack = PackParameters(
        float(n), parallel, model.nominal_capacity_ah, cell, thermal, groups, capacity, resistance, coolant_c
    )
    return pack, speed


def draw_climate(climate: Climate, rng: np.random.Generator) -> ClimateParameters:
    """Draw the climate of one battery in a region, with its own weather."""
    phase = rng.uniform(0.0, 2.0 * np.pi, len(WEATHER_PERIODS_DAYS))
    mean_c = climate.mean_c + 1.5 * rng.standard_normal()
    return ClimateParameters(mean_c, climate.season_c, climate.day_c, climate.weather_c, phase)


def draw_driver(usage: Usage, rng: np.random.Generator) -> DriverParameters:
    """Draw one driver: more or less traction than in the cycles, less recuperation than the bound of the tables."""
    return DriverParameters(
        highway_share=float(np.clip(usage.highway_share + 0.1 * rng.standard_normal(), 0.0, 1.0)),
        traction_factor=float(np.exp(0.1 * rng.standard_normal() + 0.08)),
        recuperation_factor=float(rng.uniform(0.6, 0.9)),
    )


def consumption_of(vehicle: VehicleParameters, driver: DriverParameters) -> Consumption:
    """Mean consumption of a car and driver, from its cycles mixed by distance."""
    table = vehicle.cycles
    traction_w = table.power_w - vehicle.auxiliary_w
    power_w = vehicle.auxiliary_w + traction_w * np.where(
        traction_w > 0.0, driver.traction_factor, driver.recuperation_factor
    )
    parts = (slice(0, table.highway_row), slice(table.highway_row, None))
    km = np.array([table.speed_m_s[part].sum() / 1000.0 for part in parts])
    weight = np.array([1.0 - driver.highway_share, driver.highway_share]) / km
    out, back, seconds, square = (
        float(sum(w * values[part].sum() for w, part in zip(weight, parts, strict=True)))
        for values in (np.maximum(power_w, 0.0), np.maximum(-power_w, 0.0), np.ones_like(power_w), power_w**2)
    )
    return Consumption(out / 3600.0, back / 3600.0, seconds, (square / seconds) ** 0.5)


def draw_design(
    model: CarModel,
    usage: Usage,
    rng: np.random.Generator,
    *,
    in_service_s: float,
    ageing_spread: float,
    hazard_scale: float,
    cell: CellParameters | None = None,
    is_full: bool = False,
) -> Design:
    """Draw the design of one battery.

    Args:
        in_service_s: first day, seconds since 1970.
        ageing_spread: factor on the spread of ageing between packs.
        hazard_scale: factor on the hazards of defects.
        cell, is_full: see `draw_pack`.
    """
    pack, cell_speed = draw_pack(model, rng, cell=cell, is_full=is_full)
    speed = AGEING_SPEED * float(np.exp(ageing_spread * PACK_AGEING_SPREAD * rng.standard_normal()))
    has_knee = rng.random() < KNEE_SHARE and model.chemistry == "NMC"
    climate = draw_climate(pick(CLIMATES, rng), rng)
    driver = draw_driver(usage, rng)
    vehicle = VehicleParameters(cycles_of(model.vehicle), vehicles()[model.vehicle].auxiliary_w, model.cabin_w_per_k)
    habits = UsageParameters(
        km_per_day=usage.km_per_day * float(np.exp(0.25 * rng.standard_normal())),
        km_spread=usage.km_spread,
        weekday_share=usage.weekday_share,
        weekend_share=usage.weekend_share,
        long_share=usage.long_share,
        long_km=LONG_TRIP_KM,
        charge_below=float(np.clip(usage.charge_below + 0.1 * rng.standard_normal(), 0.2, 0.9)),
        target_soc=float(np.clip(usage.target_soc + 0.07 * rng.standard_normal(), 0.7, 1.0)),
        dc_share=float(np.clip(usage.dc_share + 0.1 * rng.standard_normal(), 0.0, 1.0)),
        interrupted_share=INTERRUPTED_SHARE,
        ac_w=model.ac_w,
        dc_w=model.dc_w,
        consumption=consumption_of(vehicle, driver),
        cabin_w_per_k=model.cabin_w_per_k,
    )
    plan = draw_plan(rng, hazard_scale, model.has_coolant)
    counted_v = counted_ocv(model.chemistry) if cell is None else ocv_table(cell)
    sensors = draw_sensors(rng, model.temperature_step_c, in_service_s)
    return Design(
        in_service_s=in_service_s,
        pack=pack,
        ageing=AgeingParameters(MODELS.index("NMC_knee" if has_knee else model.chemistry), speed * cell_speed),
        hazards=HAZARD_TABLE,
        plan=plan,
        vehicle=vehicle,
        driver=driver,
        usage=habits,
        climate=climate,
        sensors=sensors,
        counter=ChargeCounter(sensors.current_gain, sensors.current_offset_a, counted_v),
    )
