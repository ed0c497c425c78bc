"""Ageing of a cell by time, temperature, state of charge and throughput, with the models of BLAST-Lite.

`model.py` is what others call; `state.py` holds what is kept between calls, `trajectories.py` the laws, and each of
the other modules one cell.  Equations and parameters are those of BLAST-Lite 1.1.1 (NREL, BSD-3-Clause, see `LICENSE-
BLAST-Lite`), written anew for compiled increments; docs/decisions says where they differ.
"""
