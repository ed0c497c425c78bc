-- What happened to a battery beside its readings; may be entered after the fact.
CREATE TABLE IF NOT EXISTS battery_events (
    battery_id text NOT NULL CHECK (battery_id ~ '^[A-Za-z0-9_.-]{1,50}$'),
    time       timestamptz NOT NULL CHECK (time >= '1970-01-01 00:00:00+00' AND time <= '2200-01-01 00:00:00+00'),
    event      text NOT NULL CHECK (event IN ('replaced', 'bms_reset', 'capacity_test', 'failed')),
    value      double precision CHECK (value > 0 AND value < 'infinity'),
    source     text,
    entered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (battery_id, time, event),
    CHECK (event <> 'capacity_test' OR value IS NOT NULL)
);
COMMENT ON TABLE battery_events IS 'What happened to a battery beside its readings; may be entered after the fact.';
COMMENT ON COLUMN battery_events.battery_id IS 'one pack or cell';
COMMENT ON COLUMN battery_events.time IS 'when it happened [UTC]';
COMMENT ON COLUMN battery_events.event IS
    'replaced: another pack, whose state and labels begin anew; bms_reset: its cycle count began anew, the age goes on; '
    'capacity_test: a measured capacity, a label; failed: a failure, a label';
COMMENT ON COLUMN battery_events.value IS 'measured capacity of a capacity_test [Ah]';
COMMENT ON COLUMN battery_events.source IS 'who or what entered it';
COMMENT ON COLUMN battery_events.entered_at IS 'when it was entered [UTC]';

ALTER TABLE evaluation_batteries ADD COLUMN IF NOT EXISTS life_began timestamptz;
COMMENT ON COLUMN evaluation_batteries.life_began IS
    'time of the newest event `replaced` that the evaluation has followed; what was observed before is of another pack [UTC]';
