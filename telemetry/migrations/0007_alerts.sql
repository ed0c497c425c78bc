-- Alerts with their life cycle: opened, changed in severity, acknowledged, resolved; and mutes.
-- Written by the console only; small, and never deleted by retention.

CREATE TABLE IF NOT EXISTS battery_alerts (
    alert_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    battery_id      text NOT NULL,
    rule            text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('WARNING', 'CRITICAL')),
    reason          text NOT NULL,
    value           double precision NOT NULL,
    threshold       double precision NOT NULL,
    evidence        jsonb NOT NULL,
    opened_at       timestamptz NOT NULL,
    changed_at      timestamptz NOT NULL DEFAULT now(),
    cleared_at      timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    note            text
);
COMMENT ON COLUMN battery_alerts.opened_at IS 'event time of the reading that opened it';
COMMENT ON COLUMN battery_alerts.cleared_at IS 'event time of the reading that was beyond the margin again';
COMMENT ON COLUMN battery_alerts.evidence IS 'the snapshot that opened it or changed its severity';

-- A battery has at most one open alert of a rule, also with several consoles.
CREATE UNIQUE INDEX IF NOT EXISTS battery_alerts_open ON battery_alerts (battery_id, rule) WHERE cleared_at IS NULL;
CREATE INDEX IF NOT EXISTS battery_alerts_battery ON battery_alerts (battery_id, opened_at DESC);
CREATE INDEX IF NOT EXISTS battery_alerts_newest ON battery_alerts (changed_at DESC);

CREATE TABLE IF NOT EXISTS alert_mutes (
    mute_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    battery_id text,
    rule       text,
    until      timestamptz NOT NULL,
    reason     text NOT NULL,
    muted_by   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE alert_mutes IS 'no battery or no rule means every one; the wall clock ends a mute';
CREATE INDEX IF NOT EXISTS alert_mutes_until ON alert_mutes (until);
