-- Finds the newest resolved alerts of a rule without scanning those of other rules.
CREATE INDEX IF NOT EXISTS battery_alerts_over ON battery_alerts (rule, changed_at DESC) WHERE cleared_at IS NOT NULL;
