"""State parity: a history gives the same bits at once, in chunks, one by one and in any interleaving of batteries."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest
from conftest_features import drive
from hypothesis import given, settings
from hypothesis import strategies as st

from features import state as s
from features import state_update

N_BATTERIES = 3


@pytest.fixture(scope="module")
def history() -> tuple[np.ndarray, np.ndarray]:
    """Interleaved readings of three batteries, with a gap and missing values."""
    time_s = np.concatenate([np.arange(0, 10_800, 20.0), np.arange(90_000, 101_000, 20.0)])
    matrices = [state_update.readings_matrix(drive(time_s, seed)) for seed in range(N_BATTERIES)]
    rng = np.random.default_rng(0)
    for matrix in matrices:
        optional = matrix[:, 4:]
        optional[rng.random(optional.shape) < 0.1] = np.nan
    rows = np.concatenate(matrices)
    battery = np.repeat(np.arange(N_BATTERIES), len(time_s))
    order = np.argsort(rows[:, 0], kind="stable")
    return battery[order], rows[order]


def fresh() -> np.ndarray:
    states = s.new_states(N_BATTERIES)
    for state in states:
        s.set_battery(state, nominal_capacity_ah=100.0, cells_in_series=96, chemistry="NMC", cell_parameters="NMC")
    return states


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


@pytest.fixture(scope="module")
def whole(history: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, state_update.ReadingUpdates]:
    states = fresh()
    return states, state_update.update_from_readings(states, *history)


def test_history_closes_sessions(whole: tuple[np.ndarray, state_update.ReadingUpdates]) -> None:
    table = whole[1].closed_table()
    assert set(table["kind"]) == {"charge", "discharge"}
    assert table["resistance_ohm"].notna().any()
    assert table["charge_window_2_ah"].notna().any()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 2700), max_size=5))
def test_chunks_with_the_state_serialised_between_them_give_the_same_bits(
    history: tuple[np.ndarray, np.ndarray], whole: tuple[np.ndarray, state_update.ReadingUpdates], cuts: list[int]
) -> None:
    battery, rows = history
    states, features, closed = fresh(), [], []
    for part in np.split(np.arange(len(rows)), sorted(cuts)):
        states = np.stack([s.decode(s.encode(state, "EV-1"), "EV-1") for state in states])
        result = state_update.update_from_readings(states, battery[part], rows[part])
        features.append(result.features)
        closed.append(result.closed_features)
    assert same(states, whole[0])
    assert same(np.concatenate(features), whole[1].features)
    assert same(np.concatenate(closed), whole[1].closed_features)


def test_readings_one_by_one_give_the_same_bits(
    history: tuple[np.ndarray, np.ndarray], whole: tuple[np.ndarray, state_update.ReadingUpdates]
) -> None:
    battery, rows = history
    states = fresh()
    for i in range(len(rows)):
        state_update.update_from_readings(states, battery[i : i + 1], rows[i : i + 1])
        if i % 97 == 0:
            assert same(state_update.reading_features(states[battery[i]]), whole[1].features[i])
    assert same(states, whole[0])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_interleaving_of_batteries_gives_the_same_bits(
    history: tuple[np.ndarray, np.ndarray], whole: tuple[np.ndarray, state_update.ReadingUpdates], seed: int
) -> None:
    battery, rows = history
    shuffled = np.random.default_rng(seed).permutation(battery)
    order = np.empty(len(rows), dtype=np.int64)
    for k in range(N_BATTERIES):
        order[shuffled == k] = np.flatnonzero(battery == k)
    states = fresh()
    result = state_update.update_from_readings(states, battery[order], rows[order])
    assert same(states, whole[0])
    assert same(result.features, whole[1].features[order])


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_old_and_repeated_readings_do_not_change_the_state(
    history: tuple[np.ndarray, np.ndarray], whole: tuple[np.ndarray, state_update.ReadingUpdates], data: st.DataObject
) -> None:
    battery, rows = history
    again = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
    states = whole[0].copy()
    result = state_update.update_from_readings(states, battery[again], rows[again])
    assert not result.applied.any()
    assert same(states, whole[0])


def test_cycles_one_by_one_give_the_same_bits() -> None:
    from conftest_features import laboratory

    cycles = state_update.cycles_matrix(laboratory("a", 60, 0.001, seed=1))
    at_once, in_parts = s.new_states(1), s.new_states(1)
    s.set_battery(at_once[0], nominal_capacity_ah=1.0)
    s.set_battery(in_parts[0], nominal_capacity_ah=1.0)
    expected = state_update.update_from_cycles(at_once, np.zeros(60, dtype=np.int64), cycles)
    for i in range(60):
        state_update.update_from_cycles(in_parts, np.zeros(1, dtype=np.int64), cycles[i : i + 1])
        assert same(state_update.cycle_features(in_parts[0]), expected.features[i])
    assert same(at_once, in_parts)
    assert not state_update.update_from_cycles(in_parts, np.zeros(1, dtype=np.int64), cycles[30:31]).applied.any()


@pytest.mark.parametrize("damage", ["", "not a state", "QUJD", "flip", "version", "long", "other"])
def test_invalid_state_is_rejected(damage: str) -> None:
    text = s.encode(fresh()[0], "EV-1")
    raw = bytearray(base64.b64decode(text))
    if damage == "flip":
        raw[40] ^= 1
        damage = base64.b64encode(bytes(raw)).decode()
    elif damage == "version":
        raw[4:6] = struct.pack("<H", s.STATE_VERSION + 1)
        damage = base64.b64encode(bytes(raw)).decode()
    elif damage == "long":
        content = b"\0" * 10_000_000
        header = struct.pack("<4sHII", b"EVTW", s.STATE_VERSION, zlib.crc32(b"EV-1"), zlib.crc32(content))
        damage = base64.b64encode(header + content).decode()
    elif damage == "other":
        damage = s.encode(fresh()[0], "EV-2")
    with pytest.raises(s.StateError, match="history"):
        s.decode(damage, "EV-1")


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (s.CHEMISTRY, -1e9),
        (s.CHEMISTRY, 3.0),
        (s.CHEMISTRY, np.nan),
        (s.NOMINAL_CAPACITY_AH, 0.0),
        (s.NOMINAL_CAPACITY_AH, np.inf),
        (s.CELLS_IN_SERIES, 0.0),
        (s.TIME_S, 1e18),
        (s.TIME_S, -1.0),
        (s.SESSION_START_S, np.inf),
        (s.SESSION_DIRECTION, 7.0),
        (s.CYCLES, np.nan),
        (s.CYCLES, -1.0),
        (s.CYCLES_SEEN, 1e300),
        (s.TAU_WEIGHT, -1.0),
        (s.SIGNAL_COUNT, -1.0),
        (s.SIGNAL_WEIGHT, -1.0),
        (s.SIGNAL_DEVIATION_WEIGHT, np.nan),
        (s.IMPLAUSIBLE, 1e9),
        (s.CELL_PARAMETERS, 4.0),
        (s.FILTER_SOC, 2.0),
        (s.FILTER_CAPACITY, 0.0),
        (s.FILTER_VARIANCE, np.nan),
        (s.IMPLAUSIBLE_COUNT, np.inf),
    ],
)
def test_state_with_a_value_out_of_its_bounds_is_rejected_despite_its_checksum(slot: int, value: float) -> None:
    (state,) = fresh()[:1]
    s.decode(s.encode(state, "EV-1"), "EV-1")
    state[slot] = value
    with pytest.raises(s.StateError, match="damaged"):
        s.decode(s.encode(state, "EV-1"), "EV-1")


def test_any_state_with_a_right_checksum_is_rejected_or_can_be_updated(history: tuple[np.ndarray, np.ndarray]) -> None:
    """A segmentation fault would end this process."""
    battery, rows = history
    rng = np.random.default_rng(5)
    wild = np.array([-1e300, -1e9, -1.0, 0.0, 0.5, 1.0, 1e9, 1e300, np.nan, np.inf, -np.inf])
    accepted = 0
    for _ in range(300):
        (state,) = fresh()[:1]
        slots = rng.integers(0, s.STATE_SIZE, size=rng.integers(1, 4))
        state[slots] = rng.choice(wild, size=len(slots))
        try:
            state = s.decode(s.encode(state, "EV-1"), "EV-1")
        except s.StateError:
            continue
        accepted += 1
        state_update.update_from_readings(state[None], np.zeros(400, dtype=np.int64), rows[battery == 0][:400])
    assert 0 < accepted < 300
