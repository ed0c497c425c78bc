"""Calibration of the cell model to measured discharges: reading, model, fit and report."""
