-- Distance of the champion's features, predictions and errors from its training reference, by drift window.
-- Plain tables: a few rows per window, kept as the history of a model.

-- The champion whose drift is measured for each target, and the cursor from which a killed watcher resumes.
CREATE TABLE IF NOT EXISTS drift_models (
    target        text PRIMARY KEY,
    model_name    text NOT NULL,
    model_version text NOT NULL,
    since         timestamptz NOT NULL,
    looked_until  timestamptz NOT NULL,
    note          text,
    followed_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN drift_models.since IS 'event time at which its first window begins';
COMMENT ON COLUMN drift_models.looked_until IS 'event time up to which every window has been looked at';
COMMENT ON COLUMN drift_models.note IS 'why nothing is measured, where nothing is';

-- Drift windows with enough samples.
CREATE TABLE IF NOT EXISTS drift_windows (
    target        text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('features', 'predictions', 'errors')),
    model_name    text NOT NULL,
    model_version text NOT NULL,
    window_start  timestamptz NOT NULL,
    window_end    timestamptz NOT NULL,
    samples       integer NOT NULL,
    batteries     integer NOT NULL,
    score         double precision NOT NULL,
    threshold     double precision NOT NULL,
    is_out        boolean NOT NULL,
    detail        jsonb NOT NULL DEFAULT '{}',
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, kind, model_name, model_version, window_start)
);
COMMENT ON COLUMN drift_windows.score IS 'distance from the training reference of model_version';
COMMENT ON COLUMN drift_windows.threshold IS 'what windows of the reference itself hardly ever exceed';
COMMENT ON COLUMN drift_windows.detail IS 'features: those that moved most, each with its distance';

CREATE INDEX IF NOT EXISTS drift_windows_newest ON drift_windows (target, kind, window_start DESC);

-- Of the newest window with enough samples; `is_drifting` is the rule over the last windows of the same model.
ALTER TABLE drift_status ADD COLUMN IF NOT EXISTS model_name text;
ALTER TABLE drift_status ADD COLUMN IF NOT EXISTS model_version text;
ALTER TABLE drift_status ADD COLUMN IF NOT EXISTS window_end timestamptz;
ALTER TABLE drift_status ADD COLUMN IF NOT EXISTS windows integer;
ALTER TABLE drift_status ADD COLUMN IF NOT EXISTS windows_out integer;
COMMENT ON COLUMN drift_status.windows IS 'how many windows the rule looked back on';
COMMENT ON COLUMN drift_status.windows_out IS 'how many of them were out';
