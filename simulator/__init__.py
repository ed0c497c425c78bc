"""A simulated fleet: cells, packs, vehicles, climates, wear and faults with known truth, honest about its sensors."""
