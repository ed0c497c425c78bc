"""Runs FASTSim on its cars and cycles and prints battery powers as JSON, in the environment of `vehicle_power`."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import fastsim

#: FASTSim's files of the cars and cycles, by their names in the tables.
VEHICLES = {
    "leaf": "2016 Nissan Leaf 30 kWh thrml.yaml",
    "bolt": "2020 Chevrolet Bolt EV thrml.yaml",
    "model_3": "2022 Tesla Model 3 RWD thrml.yaml",
    "zoe": "2022_Renault_Zoe_ZE50_R135.yaml",
}
CYCLES = {"udds": "udds.csv", "hwfet": "hwfet.csv"}
AMBIENT_K = 295.15


def driven(vehicle_file: str, cycle_file: str) -> Any:
    """A row for each second of the cycle; FASTSim drives it at 22 degC, which needs no air conditioning."""
    vehicle = fastsim.Vehicle.from_resource(vehicle_file)
    vehicle.set_save_interval(1)
    drive = fastsim.SimDrive(vehicle, fastsim.Cycle.from_resource(cycle_file))
    drive.run_once()
    rows = drive.to_dataframe()
    if (abs(rows["cyc.temp_amb_air_kelvin"] - AMBIENT_K) > 1e-6).any():
        raise ValueError("FASTSim no longer drives the cycles at 22 degC: state the new temperature in the tables.")
    return rows


def main() -> None:
    """Run each car on each cycle; power is that of the second which ends at each time, positive while discharging."""
    vehicles: dict[str, Any] = {}
    powers_w: dict[str, dict[str, list[int]]] = {cycle: {} for cycle in CYCLES}
    speeds_m_s: dict[str, list[float]] = {}
    for name, file in VEHICLES.items():
        parameters = fastsim.Vehicle.from_resource(file).to_dict()
        storage = parameters["pt_type"]["BEV"]["res"]
        vehicles[name] = {
            "name": parameters["name"],
            "fastsim_file": file,
            "mass_kg": parameters["mass_kilograms"],
            "auxiliary_w": parameters["pwr_aux_base_watts"],
            "battery_kwh": round(storage["energy_capacity_joules"] / 3.6e6, 3),
        }
        for cycle, cycle_file in CYCLES.items():
            rows = driven(file, cycle_file).iloc[1:]
            power_w = rows["veh.pt_type.BEV.res.history.pwr_out_electrical_watts"]
            powers_w[cycle][name] = power_w.round().astype(int).tolist()
            speeds_m_s[cycle] = rows["cyc.speed_meters_per_second"].round(4).tolist()
    content = {"fastsim": version("fastsim"), "vehicles": vehicles, "powers_w": powers_w, "speeds_m_s": speeds_m_s}
    json.dump(content, sys.stdout)


if __name__ == "__main__":
    main()
