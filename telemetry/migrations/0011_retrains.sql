-- Retraining runs started by drift or by a person, their outcome, and the monitoring of the promotion that followed.
-- Written by `python -m retraining`; small, and never deleted by retention.

CREATE TABLE IF NOT EXISTS retrains (
    retrain_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain         text NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    host           text NOT NULL,
    started_by     text NOT NULL,
    reason         text NOT NULL,
    drift          jsonb NOT NULL DEFAULT '[]',
    data_until     timestamptz,
    outcome        text CHECK (outcome IN ('promoted', 'not_promoted', 'failed')),
    detail         text,
    error          text,
    release_before integer,
    release_after  integer,
    run_id         text,
    watch          text CHECK (watch IN ('watching', 'passed', 'rolled_back', 'superseded')),
    watched        jsonb,
    watch_looks    jsonb NOT NULL DEFAULT '{}',
    watch_detail   text,
    watch_ended_at timestamptz
);
COMMENT ON COLUMN retrains.drift IS 'the rows of drift_status that started it: target, kind, score, threshold';
COMMENT ON COLUMN retrains.data_until IS 'event time of the newest thing that it learned from';
COMMENT ON COLUMN retrains.detail IS 'what became of each model, a sentence each';
COMMENT ON COLUMN retrains.watched IS 'by target: the version that was promoted and the one that it replaced';
COMMENT ON COLUMN retrains.watch_looks IS 'by target: outcomes of the same moments at the last comparison';
CREATE INDEX IF NOT EXISTS retrains_newest ON retrains (domain, retrain_id DESC);
