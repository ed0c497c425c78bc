-- Age of the battery at its prediction: with it, and only then, the truth about remaining life can be told later.
ALTER TABLE battery_predictions ADD COLUMN IF NOT EXISTS cycle_index double precision;
