"""Physics of one cell, shared by simulator and battery state: equivalent circuit, heat, and ageing."""
