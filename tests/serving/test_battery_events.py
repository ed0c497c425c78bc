"""Events of batteries in the states of serving: a replaced pack begins anew, after a reset the age goes on.

An event may be entered after the readings: the state is then restored by replay.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from features import state as s
from features import state_update
from serving.predictor import Predictor
from serving.scorer import Scorer
from telemetry.batch import Batch, rows_of
from telemetry.stores.migrate import migrate
from tests.features.conftest_features import drive
from tests.serving.test_database_predictor import PACK, Site, drain

#: Two days, each with a drive and a charge.
FIRST, SECOND = (drive(day + np.arange(0, 9_000, 30.0)) for day in (0.0, 86_400.0))
REPLACED_AT = pd.Timestamp("2026-01-01T12:00:00Z")


@pytest.fixture
def site(postgres_dsn: str) -> Iterator[Site]:
    migrate(postgres_dsn)
    made = Site(postgres_dsn)
    made.store.write(Batch(batteries=[{"battery_id": "EV-0", **PACK}]))
    yield made
    made.store.close()


def enter(site: Site, event: str) -> None:
    site.query("INSERT INTO battery_events (battery_id, time, event) VALUES ('EV-0', %s, %s)", (REPLACED_AT, event))


def state_of(site: Site) -> np.ndarray:
    ((raw,),) = site.query("SELECT state FROM twin_states")
    state = s.from_bytes(bytes(raw), "EV-0")
    state[s.EVENTS] = 0.0
    return state


def updated(*parts: pd.DataFrame, continues: bool = False) -> np.ndarray:
    states = s.new_states(1)
    s.set_battery(states[0], **PACK)
    for number, part in enumerate(parts):
        if continues and number:
            s.continue_age(states[0])
        rows = np.zeros(len(part), dtype=np.int64)
        state_update.update_from_readings(states, rows, state_update.readings_matrix(part))
    return states[0]


def run(site: Site, predictor: Predictor, *readings: pd.DataFrame) -> None:
    for part in readings:
        site.store.write(Batch(readings=rows_of(part)))
        drain(site.worker(), Scorer(predictor))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def test_state_of_a_replaced_pack_begins_anew(site: Site, predictor: Predictor) -> None:
    run(site, predictor, FIRST)
    enter(site, "replaced")
    run(site, predictor, SECOND)
    assert same(state_of(site), updated(SECOND))
    assert site.counted("database_replays_total") == 1
    run(site, predictor, drive(np.arange(172_800.0, 173_000.0, 30.0)))
    assert site.counted("database_replays_total") == 1, "the state includes the event"


def test_event_that_is_entered_later_restores_the_state(site: Site, predictor: Predictor) -> None:
    run(site, predictor, FIRST, SECOND.iloc[:-5])
    assert not same(state_of(site), updated(SECOND.iloc[:-5]))
    enter(site, "replaced")
    run(site, predictor, SECOND.iloc[-5:])
    assert same(state_of(site), updated(SECOND))
    ((before,),) = site.query("SELECT count(*) FROM battery_cycles WHERE end_time < %s", (REPLACED_AT,))
    assert before > 0, "the sessions of the former pack stay"


@pytest.mark.parametrize("late", [False, True])
def test_age_goes_on_after_a_reset(site: Site, predictor: Predictor, late: bool) -> None:
    first, second = FIRST.assign(charge_cycles=900.0), SECOND.assign(charge_cycles=3.0)
    second.loc[second.index[-1], "charge_cycles"] = 4.0
    run(site, predictor, first, *([second.iloc[:-5]] if late else []))
    enter(site, "bms_reset")
    run(site, predictor, second.iloc[-5:] if late else second)
    state = state_of(site)
    assert same(state, updated(first, second, continues=True))
    assert state[s.CYCLES] == 901.0
    assert not s.implausible_counts(state[None]).any()


def test_event_of_the_future_changes_nothing(site: Site, predictor: Predictor) -> None:
    enter(site, "replaced")
    run(site, predictor, FIRST)
    assert same(state_of(site), updated(FIRST))
    assert site.counted("database_replays_total") == 0
