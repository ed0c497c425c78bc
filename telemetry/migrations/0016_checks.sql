-- Values that no reader can use cannot enter: NaN and infinite numbers, times outside of the contract, capacities and
-- numbers of cells that are not positive.  What is there already is copied to quarantined_rows with the reason; then an
-- optional value becomes NULL, and a row with an invalid required value is deleted.
CREATE TABLE IF NOT EXISTS quarantined_rows (
    table_name     text NOT NULL,
    reason         text NOT NULL,
    content        jsonb NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE quarantined_rows IS 'Rows as they were before a migration cleared or deleted values that no reader can use.';
COMMENT ON COLUMN quarantined_rows.table_name IS 'table of the row';
COMMENT ON COLUMN quarantined_rows.reason IS 'column that is invalid';
COMMENT ON COLUMN quarantined_rows.content IS 'the whole row';
COMMENT ON COLUMN quarantined_rows.quarantined_at IS 'wall-clock time of the migration';

-- For each column: quarantine the rows that violate its condition, clear or delete them, add the constraint.
DO $$
DECLARE
    item record;
    invalid text;
BEGIN
    FOR item IN
        SELECT c.table_name::text AS tab, c.column_name::text AS col,
               c.is_nullable = 'NO' OR c.column_name IN ('voltage', 'current', 'temperature') AS is_required,
               CASE
                   WHEN c.data_type <> 'double precision' THEN format(
                       '%1$I >= ''1970-01-01 00:00:00+00'' AND %1$I <= ''2200-01-01 00:00:00+00''', c.column_name)
                   WHEN c.table_name = 'batteries' THEN format('%1$I > 0 AND %1$I < ''infinity''', c.column_name)
                   ELSE format('%1$I > ''-infinity'' AND %1$I < ''infinity''', c.column_name)
               END AS condition
        FROM information_schema.columns c
        WHERE c.table_schema = current_schema()
          AND c.table_name IN ('batteries', 'ev_telemetry', 'battery_cycles', 'battery_predictions')
          AND c.data_type IN ('double precision', 'timestamp with time zone')
          AND c.column_name NOT IN ('created_at', 'predicted_at', 'prediction_timestamp')
        ORDER BY 1, 2
    LOOP
        -- A missing value satisfies every condition.
        invalid := format('(%s) IS FALSE', item.condition);
        EXECUTE format(
            'INSERT INTO quarantined_rows (table_name, reason, content) SELECT %L, %L, to_jsonb(t) FROM %I t WHERE %s',
            item.tab, item.col, item.tab, invalid);
        IF item.is_required THEN
            EXECUTE format('DELETE FROM %I WHERE %s', item.tab, invalid);
        ELSE
            EXECUTE format('UPDATE %1$I SET %2$I = NULL WHERE %3$s', item.tab, item.col, invalid);
        END IF;
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%s)',
                       item.tab, item.tab || '_' || item.col || '_valid', item.condition);
    END LOOP;
END
$$;
