-- A pack that counts whole cycles ends several sessions at one age: the time of their end tells them apart.
CREATE UNIQUE INDEX IF NOT EXISTS battery_cycles_key
    ON battery_cycles (battery_id, cycle_index, kind, end_time) NULLS NOT DISTINCT;
ALTER TABLE battery_cycles DROP CONSTRAINT IF EXISTS battery_cycles_pkey;

-- Whoever reads new rows of the store and predicts from them (python -m serving.database), by name.
CREATE TABLE IF NOT EXISTS twin_consumers (
    consumer   text PRIMARY KEY,
    -- What was stored before is the past: it is folded, and predicted only if that was asked for.
    started_at timestamptz NOT NULL DEFAULT now()
);

-- How far a consumer has read and what it remembers of each battery; changes together with what it writes.
CREATE TABLE IF NOT EXISTS twin_states (
    consumer      text NOT NULL REFERENCES twin_consumers,
    battery_id    text NOT NULL,
    state         bytea,       -- features.state; NULL before the first row and when the past has to be folded again
    time          timestamptz, -- of the newest reading in the state
    read_until    text,        -- the newest row that was read, as the column that orders its table writes it
    predict_after timestamptz, -- readings up to here are the past: folded, not predicted
    cycles_after  timestamptz, -- sessions that ended up to here are in battery_cycles already
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, battery_id)
) WITH (fillfactor = 50);
-- A state is compressed when it comes.
ALTER TABLE twin_states ALTER COLUMN state SET STORAGE EXTERNAL;
