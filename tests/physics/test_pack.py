"""Tests of the pack model: demanded power, limits by single cells, spread, balance, defects, charge and heat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physics import pack as p
from physics.cell import differential_ohm, voltage_at
from physics.pack import Condition, PackParameters
from physics.parameters import available, cell_parameters, stored
from physics.thermal import ThermalParameters, ThermalState, stored_j

SERIES, PARALLEL = 96.0, 30.0
THERMAL = ThermalParameters(80.0, 30.0, 0.15, 0.006, 0.03)


def pack_of(chemistry: str) -> PackParameters:
    """A pack of a weakest, 94 mean and a strongest group."""
    cell = cell_parameters(stored(chemistry))
    nominal_ah = PARALLEL * cell.capacity_ah
    return PackParameters(
        SERIES,
        PARALLEL,
        nominal_ah,
        cell,
        THERMAL,
        np.array([1.0, 94.0, 1.0]),
        np.array([0.97, 1.0, 1.01]),
        np.array([1.1, 1.0, 0.95]),
        np.array([1.5, 0.0, -1.5]),
    )


PACKS = {name: pack_of(name) for name in available()}
chemistries = st.sampled_from(sorted(PACKS))


def condition(**changes: object) -> Condition:
    new = Condition(np.ones(3), np.ones(3), 0.0, 1.0, 0.0, 0.0)
    return new._replace(**changes)


def at_rest(
    pack: PackParameters, soc: float, temperature_c: float = 25.0, state: Condition | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Groups at rest and their sources."""
    state = condition() if state is None else state
    groups, sources = np.zeros((3, p.GROUP_SIZE)), np.empty((3, 4))
    p.set_at_rest(groups, pack, state, soc, temperature_c)
    p.store_sources(sources, groups, pack, state)
    return groups, sources


@given(name=chemistries, share=st.floats(-0.8, 0.8), soc=st.floats(0.25, 0.85))
@settings(max_examples=60, deadline=None)
def test_demanded_power_is_delivered(name: str, share: float, soc: float) -> None:
    pack = PACKS[name]
    _, sources = at_rest(pack, soc)
    power_w = share * SERIES * 3.3 * pack.nominal_capacity_ah
    current_a = p.current_for_power_a(sources, pack, condition(), power_w)
    delivered_w = current_a * p.pack_voltage_v(sources, pack, condition(), current_a)
    assert delivered_w == pytest.approx(power_w, rel=1e-3, abs=1.0)


@given(name=chemistries, rate=st.floats(-6.0, 6.0), soc=st.floats(0.0, 1.0), temperature_c=st.floats(-10.0, 45.0))
@settings(max_examples=60, deadline=None)
def test_no_cell_leaves_its_voltage_limits(name: str, rate: float, soc: float, temperature_c: float) -> None:
    pack = PACKS[name]
    cell = pack.cell
    _, sources = at_rest(pack, soc, temperature_c)
    demanded_a = rate * pack.nominal_capacity_ah
    current_a = p.limited_by_voltage_a(sources, pack, cell.voltage_min_v, cell.voltage_max_v, demanded_a)
    assert abs(current_a) <= abs(demanded_a) + 1e-9
    assert current_a * demanded_a >= 0.0
    voltages_v = p.group_voltages_v(sources, pack, current_a)
    if current_a > 0.0:
        assert voltages_v.min() >= cell.voltage_min_v - 2e-3
    if current_a < 0.0:
        assert voltages_v.max() <= cell.voltage_max_v + 2e-3


@pytest.mark.parametrize("name", sorted(PACKS))
def test_the_weakest_group_limits_the_pack(name: str) -> None:
    pack = PACKS[name]
    groups, _ = at_rest(pack, 1.0)
    np.testing.assert_allclose(groups[:, p.SOC], 1.0)
    empty, _ = at_rest(pack, 0.0)
    assert empty[0, p.SOC] == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < empty[1, p.SOC] < empty[2, p.SOC]
    assert p.weakest_capacity_ah(pack, condition()) == pytest.approx(0.97 * pack.nominal_capacity_ah)
    # The charge between them is the capacity of the weakest group.
    moved_ah = (groups - empty)[:, p.SOC] * pack.capacity_factor * pack.nominal_capacity_ah
    np.testing.assert_allclose(moved_ah, 0.97 * pack.nominal_capacity_ah)


def run(
    pack: PackParameters, state: Condition, soc: float, current_a: float, seconds: int, ambient_c: float = 25.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Groups, sources and generated heat (J) after `seconds` without a coolant."""
    groups, sources = at_rest(pack, soc, ambient_c, state)
    heat_j = sum(p.step_pack(groups, pack, state, current_a, ambient_c, 20.0, 0.0, 1.0) for _ in range(seconds))
    p.store_sources(sources, groups, pack, state)
    return groups, sources, heat_j


@pytest.mark.parametrize("name", sorted(PACKS))
def test_charge_and_heat_are_conserved(name: str) -> None:
    pack = PACKS[name]._replace(thermal=THERMAL._replace(surface_to_ambient_w_per_k=1e-6))
    current_a = 0.7 * pack.nominal_capacity_ah
    groups, _, heat_j = run(pack, condition(contact_resistance_ohm=0.01), 0.8, current_a, 600)
    before, _ = at_rest(pack, 0.8)
    moved_ah = (before - groups)[:, p.SOC] * pack.capacity_factor * pack.nominal_capacity_ah
    np.testing.assert_allclose(moved_ah, current_a * 600.0 / 3600.0, rtol=1e-9)
    stored = [
        stored_j(ThermalState(row[p.CORE_C], row[p.SURFACE_C]), pack.thermal)
        - stored_j(ThermalState(25.0, 25.0), pack.thermal)
        for row in groups
    ]
    assert float(np.dot(stored, pack.groups)) * PARALLEL == pytest.approx(heat_j, rel=1e-4)
    assert heat_j > 0.01 * current_a**2 * 600.0


def test_worn_or_badly_connected_packs_sag_more() -> None:
    pack = PACKS["NMC"]
    _, sources = at_rest(pack, 0.6)
    healthy_v = p.pack_voltage_v(sources, pack, condition(), 100.0)
    bad_contact = condition(contact_resistance_ohm=0.02)
    assert healthy_v - p.pack_voltage_v(sources, pack, bad_contact, 100.0) == pytest.approx(2.0)
    worn = condition(resistance=np.full(3, 1.5))
    _, worn_sources = at_rest(pack, 0.6, state=worn)
    assert p.pack_voltage_v(worn_sources, pack, worn, 100.0) < healthy_v - 1.0


def test_a_defect_of_the_weakest_group_lowers_its_voltage_alone() -> None:
    pack = PACKS["NMC"]
    healthy = p.group_voltages_v(at_rest(pack, 0.6)[1], pack, 0.0)
    imbalanced = p.group_voltages_v(at_rest(pack, 0.6, state=condition(weak_charge_offset=-0.1))[1], pack, 0.0)
    assert imbalanced[0] < healthy[0] - 0.02
    np.testing.assert_array_equal(imbalanced[1:], healthy[1:])
    leaking, _, _ = run(pack, condition(leakage_a=2.0), 0.6, 0.0, 3600)
    whole, _, _ = run(pack, condition(), 0.6, 0.0, 3600)
    lost_ah = (whole - leaking)[:, p.SOC] * pack.capacity_factor * pack.nominal_capacity_ah
    np.testing.assert_allclose(lost_ah, [2.0, 0.0, 0.0], atol=1e-9)
    assert leaking[0, p.CORE_C] > whole[0, p.CORE_C] + 0.1


def test_a_pack_of_every_group_equals_one_of_three_kinds() -> None:
    """94 equal groups one by one, and one that stands for them."""
    three = PACKS["NMC"]
    order = [0, *[1] * 94, 2]
    full = three._replace(
        groups=np.ones(96),
        capacity_factor=three.capacity_factor[order],
        resistance_factor=three.resistance_factor[order],
        coolant_offset_c=three.coolant_offset_c[order],
    )
    each = condition(capacity=np.ones(96), resistance=np.ones(96))
    groups, sources = np.zeros((96, p.GROUP_SIZE)), np.empty((96, 4))
    p.set_at_rest(groups, full, each, 0.7, 25.0)
    for _ in range(60):
        p.step_pack(groups, full, each, 80.0, 25.0, 20.0, 1.0, 1.0)
    p.store_sources(sources, groups, full, each)
    few, few_sources = at_rest(three, 0.7)
    for _ in range(60):
        p.step_pack(few, three, condition(), 80.0, 25.0, 20.0, 1.0, 1.0)
    p.store_sources(few_sources, few, three, condition())
    np.testing.assert_allclose(groups[[0, 50, 95]], few, rtol=1e-12)
    assert p.pack_voltage_v(sources, full, each, 80.0) == pytest.approx(
        p.pack_voltage_v(few_sources, three, condition(), 80.0)
    )


def test_the_source_gives_the_voltage_of_any_current() -> None:
    _, sources = at_rest(PACKS["LFP"], 0.5)
    source = p.source_in(sources[1])
    assert voltage_at(source, 0.0) == pytest.approx(source.behind_v)
    numeric = (voltage_at(source, 1.0) - voltage_at(source, 1.001)) / 0.001
    assert differential_ohm(source, 1.0005) == pytest.approx(numeric, rel=1e-4)
