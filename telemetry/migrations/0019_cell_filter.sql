-- The filter of the cell model: which parameters a battery's cells have, and its estimates at the end of a session.
ALTER TABLE batteries ADD COLUMN IF NOT EXISTS cell_parameters text;
COMMENT ON COLUMN batteries.cell_parameters IS
    'identified parameters of its cells, an entry of physics/parameters; the filter of the cell model is off without';

ALTER TABLE battery_cycles
    ADD COLUMN IF NOT EXISTS cell_capacity_factor double precision
        CONSTRAINT battery_cycles_cell_capacity_factor_valid
        CHECK (cell_capacity_factor > '-infinity' AND cell_capacity_factor < 'infinity'),
    ADD COLUMN IF NOT EXISTS cell_resistance_factor double precision
        CONSTRAINT battery_cycles_cell_resistance_factor_valid
        CHECK (cell_resistance_factor > '-infinity' AND cell_resistance_factor < 'infinity'),
    ADD COLUMN IF NOT EXISTS model_residual_mean_v double precision
        CONSTRAINT battery_cycles_model_residual_mean_v_valid
        CHECK (model_residual_mean_v > '-infinity' AND model_residual_mean_v < 'infinity'),
    ADD COLUMN IF NOT EXISTS model_residual_rms_v double precision
        CONSTRAINT battery_cycles_model_residual_rms_v_valid
        CHECK (model_residual_rms_v > '-infinity' AND model_residual_rms_v < 'infinity');
COMMENT ON COLUMN battery_cycles.cell_capacity_factor IS
    'capacity over the nominal one, estimated by the filter of the cell model';
COMMENT ON COLUMN battery_cycles.cell_resistance_factor IS
    'resistance over that of a new cell in the same condition, estimated by the filter of the cell model';
COMMENT ON COLUMN battery_cycles.model_residual_mean_v IS
    'measured less predicted voltage of a cell, mean of about an hour [V]';
COMMENT ON COLUMN battery_cycles.model_residual_rms_v IS
    'measured less predicted voltage of a cell, root mean square of about an hour [V]';
