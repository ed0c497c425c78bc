-- Adds an outcome for a training run that was stopped on request, and the event time at which promotion monitoring began.
ALTER TABLE retrains DROP CONSTRAINT IF EXISTS retrains_outcome_check;
ALTER TABLE retrains ADD CONSTRAINT retrains_outcome_check
    CHECK (outcome IN ('promoted', 'not_promoted', 'failed', 'stopped'));
ALTER TABLE retrains ADD COLUMN IF NOT EXISTS watch_from timestamptz;
COMMENT ON COLUMN retrains.watch_from IS 'event time that the fleet had reached when the watch began';
