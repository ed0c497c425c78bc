"""The live fleet: batteries of all ages, climates and uses with telemetry of the last month; some of them have faults.

From five batteries on, one of them charges, one loses its cooling and one is silent; all of it follows from the seed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from simulator.battery_state import DRIVE
from simulator.fleet import SimulateParams
from simulator.injections import Injection
from simulator.live_pack import LivePack
from telemetry.parameters import load_params

#: Shares of the battery life at which the youngest and the oldest battery start.  Shares between them are squared, so
#: that most batteries are young: capacity is lost fastest at first, and at 0.6 of its life a battery is worn.
LIFE_SHARES = (0.05, 0.85)
#: The last part of the history, recorded without a pause.
TODAY = timedelta(hours=10)
#: Before it, how long ago each part began, and the days between its logs: less than the 30 days after which the store
#: deletes readings.  Daily logs for much longer would be drift: the training fleet has one every 40 cycles, and the
#: features of sessions change with their spacing.
RECENT_LOGS = ((timedelta(days=28), 4.0), (timedelta(days=6), 1.0))
#: From here on the readings of today have a shorter step.
LAST_HOUR = timedelta(hours=1)
TODAY_STEP_S, LAST_HOUR_STEP_S = 30.0, 10.0
#: Time since the pack without cooling began to warm to this temperature, just below the first alert limit.
WARMING = timedelta(minutes=30)
WARMED_C = 44.0
#: Time since the silent battery sent its last reading.
SILENCE = timedelta(minutes=7)
#: Longest time since the present activity began.
PRESENT_ACTIVITY_S = (180.0, 1200.0)
#: Charge of the charging battery when it was plugged in, after driving on for so long without a reading.
PLUGGED_IN_SOC = 0.42
UNSEEN = timedelta(minutes=5)
#: Smallest fleet with faults.
MIXED_FLEET = 5
#: Number (from 0) of the battery that loses its cooling, charges, and is silent.
WITHOUT_COOLING, CHARGING, SILENT = 1, 2, 3


def start_batteries(count: int, params_file: Path, at: datetime, *, is_mixed: bool = True) -> list[LivePack]:
    """`count` batteries of the fleet in `params_file` that are not in its training files, with their histories.

    Args:
        is_mixed: with a battery that loses its cooling and one that is silent, see `default_injections`.
    """
    params = load_params(params_file)
    simulate, seed = SimulateParams.of(params), params["seed"]
    rng = np.random.default_rng(seed)
    youngest, oldest = LIFE_SHARES
    shares = youngest + (oldest - youngest) * ((rng.permutation(count) + 0.5) / count) ** 2
    packs = []
    for number, share in enumerate(shares):
        pack = LivePack.start(
            simulate,
            seed,
            simulate.batteries + number,
            at=at - TODAY,
            life_share=float(share),
            recent_logs=RECENT_LOGS,
        )
        role = number if is_mixed and count >= MIXED_FLEET else None
        _record_today(pack, at, role, float(rng.uniform(*PRESENT_ACTIVITY_S)))
        packs.append(pack)
    return packs


def default_injections(count: int, *, is_mixed: bool = True) -> list[Injection]:
    """Injections that go on in the live run: the lost cooling and the silence of `start_batteries`."""
    if not is_mixed or count < MIXED_FLEET:
        return []
    return [
        Injection("lost_cooling", f"#{WITHOUT_COOLING + 1}", 0.0),
        Injection("silence", f"#{SILENT + 1}", 0.0),
    ]


def _record_today(pack: LivePack, at: datetime, role: int | None, activity_s: float) -> None:
    """Record the last `TODAY` before `at`: drives and charges without a pause, at last the present activity."""
    present = at - timedelta(seconds=activity_s)
    end = at - SILENCE if role == SILENT else at
    pack.record(at - TODAY, at - LAST_HOUR, TODAY_STEP_S)
    pack.record(pack.last_time + timedelta(seconds=LAST_HOUR_STEP_S), at - WARMING, LAST_HOUR_STEP_S)
    if role == WITHOUT_COOLING:
        pack.lose_cooling(max(WARMED_C - pack.battery.core_c, 0.0) / WARMING.total_seconds())
    step = timedelta(seconds=LAST_HOUR_STEP_S)
    if role == CHARGING:
        pack.record(pack.last_time + step, present - UNSEEN, LAST_HOUR_STEP_S)
        pack.plug_in(PLUGGED_IN_SOC)
        pack.record(pack.last_time + UNSEEN, end, LAST_HOUR_STEP_S)
        return
    pack.record(pack.last_time + step, min(present, end), LAST_HOUR_STEP_S)
    pack.battery.start_activity(DRIVE)
    pack.record(pack.last_time + step, end, LAST_HOUR_STEP_S)
    if role == WITHOUT_COOLING:
        pack.lose_cooling()
