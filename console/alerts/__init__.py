"""Alerts: `rules` says what is one, `life` when it begins and ends, `store` remembers it."""
