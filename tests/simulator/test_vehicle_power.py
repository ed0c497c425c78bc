"""Tables of battery power against the consumption that EPA tests certified, and the physics of driving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.vehicle_power import Drive, drives, vehicles
from telemetry.errors import TwinError

WH_PER_GALLON, KM_PER_MILE = 33_705.0, 1.609344
# The label is the test divided by 0.7 (40 CFR 600.210-12) and counts energy from the wall; chargers lose about 12 %.
LABEL_FACTOR, CHARGER_EFFICIENCY = 0.7, 0.88
#: City (UDDS) and highway (HWFET) on the EPA label, miles per gallon of petrol equivalent (fueleconomy.gov).
EPA_MPGE = {
    ("leaf", "udds"): 124.0,
    ("leaf", "hwfet"): 101.0,
    ("bolt", "udds"): 127.0,
    ("bolt", "hwfet"): 108.0,
    ("model_3", "udds"): 138.0,
    ("model_3", "hwfet"): 126.0,
}
#: The Zoe is not sold in the USA: WLTP 172 Wh/km from the wall.
ZOE_WLTP_WH_KM = 172.0
UDDS_KM, HWFET_KM = 11.99, 16.51  # 40 CFR 86, appendix I, and 40 CFR 600, appendix I
EPA_TOLERANCE = 0.15


@pytest.fixture(scope="module")
def all_drives() -> dict[tuple[str, str], Drive]:
    return drives()


def test_four_cars_on_two_cycles(all_drives: dict[tuple[str, str], Drive]) -> None:
    assert set(all_drives) == {
        (car, cycle) for car in ("leaf", "bolt", "model_3", "zoe") for cycle in ("udds", "hwfet")
    }
    for (_, cycle), drive in all_drives.items():
        assert drive.distance_km == pytest.approx(UDDS_KM if cycle == "udds" else HWFET_KM, rel=1e-3)
        assert drive.power_w.size == {"udds": 1369, "hwfet": 765}[cycle]


@pytest.mark.parametrize(("car", "cycle"), EPA_MPGE)
def test_consumption_is_that_of_the_epa_test(car: str, cycle: str, all_drives: dict[tuple[str, str], Drive]) -> None:
    test_wh_km = WH_PER_GALLON / (EPA_MPGE[car, cycle] / LABEL_FACTOR) / KM_PER_MILE * CHARGER_EFFICIENCY
    assert all_drives[car, cycle].consumption_wh_km == pytest.approx(test_wh_km, rel=EPA_TOLERANCE)


def test_consumption_is_not_that_of_the_epa_label(all_drives: dict[tuple[str, str], Drive]) -> None:
    """Negative control: the tolerance tells the certified test from the label, which is for real traffic."""
    for (car, cycle), mpge in EPA_MPGE.items():
        label_wh_km = WH_PER_GALLON / mpge / KM_PER_MILE * CHARGER_EFFICIENCY
        assert all_drives[car, cycle].consumption_wh_km < (1.0 - EPA_TOLERANCE) * label_wh_km


def test_consumption_of_the_zoe_is_below_its_wltp(all_drives: dict[tuple[str, str], Drive]) -> None:
    for cycle in ("udds", "hwfet"):
        assert 0.6 < all_drives["zoe", cycle].consumption_wh_km / (ZOE_WLTP_WH_KM * CHARGER_EFFICIENCY) < 1.0


def test_braking_returns_energy_in_town_and_little_on_the_highway(all_drives: dict[tuple[str, str], Drive]) -> None:
    for car in vehicles():
        town, highway = all_drives[car, "udds"], all_drives[car, "hwfet"]
        assert 0.25 < town.recuperated_share < 0.40
        assert 0.05 < highway.recuperated_share < 0.13
        for drive in (town, highway):
            slowing = np.diff(drive.speed_m_s, prepend=0.0) < -1.0
            assert (drive.power_w[slowing & (drive.speed_m_s > 5.0)] < 0.0).all()


def test_a_standing_car_needs_its_auxiliaries_only(all_drives: dict[tuple[str, str], Drive]) -> None:
    for car, vehicle in vehicles().items():
        drive = all_drives[car, "udds"]
        standing = (drive.speed_m_s == 0.0) & (np.roll(drive.speed_m_s, 1) == 0.0)
        assert standing.sum() > 200
        np.testing.assert_allclose(drive.power_w[standing], vehicle.auxiliary_w, atol=1.0)


def test_an_incomplete_table_names_the_column(tmp_path: Path) -> None:
    table = tmp_path / "vehicle_power.csv"
    table.write_text("cycle,time_s,speed_m_s,bolt_w,model_3_w,zoe_w\nudds,1,0,0,0,0\n", encoding="utf-8")
    with pytest.raises(TwinError, match="no column leaf_w"):
        drives(table)
