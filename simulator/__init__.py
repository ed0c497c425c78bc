"""Simulation of a fleet of battery packs with known ground truth: cells, packs, driving, climate, ageing, faults."""
