-- A pack that counts whole cycles ends several sessions at the same age: their end time makes the key unique.
CREATE UNIQUE INDEX IF NOT EXISTS battery_cycles_key
    ON battery_cycles (battery_id, cycle_index, kind, end_time) NULLS NOT DISTINCT;
ALTER TABLE battery_cycles DROP CONSTRAINT IF EXISTS battery_cycles_pkey;

-- Consumers that read new rows of the store and predict from them (python -m serving.database), by name.
CREATE TABLE IF NOT EXISTS twin_consumers (
    consumer   text PRIMARY KEY,
    -- Rows stored before update the battery states; predictions from them are made only with a backfill.
    started_at timestamptz NOT NULL DEFAULT now()
);

-- Cursor and battery state of a consumer for each battery; updated in the transaction that writes its output.
CREATE TABLE IF NOT EXISTS twin_states (
    consumer      text NOT NULL REFERENCES twin_consumers,
    battery_id    text NOT NULL,
    state         bytea,       -- features.state; NULL before the first row and when the history has to be replayed
    time          timestamptz, -- of the newest reading in the state
    read_until    text,        -- the newest row that was read: the text of the column that orders its table
    predict_after timestamptz, -- readings up to this time update the state only, without a prediction
    cycles_after  timestamptz, -- sessions that ended up to this time are in battery_cycles already
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, battery_id)
) WITH (fillfactor = 50);
-- States are stored compressed already.
ALTER TABLE twin_states ALTER COLUMN state SET STORAGE EXTERNAL;
