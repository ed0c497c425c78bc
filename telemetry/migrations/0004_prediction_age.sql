-- Age of the battery at the time of the prediction: needed to compute the actual remaining life later.
ALTER TABLE battery_predictions ADD COLUMN IF NOT EXISTS cycle_index double precision;
