"""The twin: one small state for each battery, one step function, and what is learned from it."""
