-- Predictions with their matured labels, pending labels, and the state of the evaluator.
-- Plain tables everywhere: a label may mature years after its prediction, so no chunk of time is ever closed, and
-- the key must stay unique.  They are small: see decision 18 in docs/decisions.

CREATE TABLE IF NOT EXISTS prediction_outcomes (
    outcome_id    bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    battery_id    text NOT NULL,
    time          timestamptz NOT NULL,
    target        text NOT NULL,
    role          text NOT NULL CHECK (role IN ('champion', 'challenger')),
    model_name    text,
    model_version text,
    value         double precision NOT NULL,
    lower         double precision,
    upper         double precision,
    actual        double precision NOT NULL,
    error         double precision NOT NULL,
    cycle_index   double precision,
    due           timestamptz,
    matured_at    timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (battery_id, target, role, time)
);
COMMENT ON COLUMN prediction_outcomes.outcome_id IS 'rises in the order of recording, so that readers can follow';
COMMENT ON COLUMN prediction_outcomes.error IS 'value - actual, in the unit of the prediction';
COMMENT ON COLUMN prediction_outcomes.matured_at IS 'event time at which the truth was known';

CREATE INDEX IF NOT EXISTS prediction_outcomes_newest ON prediction_outcomes (target, role, matured_at DESC);

-- Pending labels: one prediction for each battery and whole cycle, of the targets whose labels may mature after
-- retention has deleted the telemetry.
CREATE TABLE IF NOT EXISTS kept_predictions (
    battery_id    text NOT NULL,
    cycle         bigint NOT NULL,
    target        text NOT NULL,
    role          text NOT NULL CHECK (role IN ('champion', 'challenger')),
    time          timestamptz NOT NULL,
    value         double precision NOT NULL,
    lower         double precision,
    upper         double precision,
    cycle_index   double precision NOT NULL,
    model_name    text,
    model_version text,
    PRIMARY KEY (battery_id, target, role, cycle)
);

-- Health and alarm levels that a battery reported: at most three rows for each whole cycle.
CREATE TABLE IF NOT EXISTS battery_observations (
    battery_id    text NOT NULL,
    cycle         bigint NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('first', 'change', 'alarm')),
    cycle_index   double precision NOT NULL,
    time          timestamptz NOT NULL,
    soh           double precision,
    soh_before    double precision,
    warning_level double precision,
    PRIMARY KEY (battery_id, cycle, kind)
);
COMMENT ON COLUMN battery_observations.kind IS
    'first: first health of the cycle; change: last crossing of a whole percent in it; alarm: its highest alarm';

-- Cursor and state of the evaluator for each battery, so that it resumes after a kill; has_news is its dirty flag.
CREATE TABLE IF NOT EXISTS evaluation_batteries (
    battery_id     text PRIMARY KEY,
    observed_until timestamptz,
    cycle_index    double precision,
    soh_cycle      bigint,
    soh            double precision,
    alarm_level    double precision NOT NULL DEFAULT 0,
    watched        boolean NOT NULL DEFAULT false,
    newest_cycle   double precision,
    has_news       boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN evaluation_batteries.watched IS 'it has reported its health or an alarm level, so its silence says something';
CREATE INDEX IF NOT EXISTS evaluation_batteries_news ON evaluation_batteries (battery_id) WHERE has_news;

CREATE TABLE IF NOT EXISTS evaluation_roles (
    battery_id       text NOT NULL,
    role             text NOT NULL,
    kept_until       timestamptz,
    kept_cycle       bigint,
    compared_until   timestamptz,
    PRIMARY KEY (battery_id, role)
);

-- Drift status of each target, written by the drift watcher and exported as metrics.
CREATE TABLE IF NOT EXISTS drift_status (
    target      text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('features', 'predictions', 'errors')),
    score       double precision NOT NULL,
    threshold   double precision NOT NULL,
    is_drifting boolean NOT NULL,
    checked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, kind)
);

-- Finds a battery's next challenger prediction without scanning the champion's.
CREATE INDEX IF NOT EXISTS battery_predictions_challenger
    ON battery_predictions (battery_id, time DESC) WHERE role = 'challenger';
