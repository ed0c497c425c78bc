"""Identification of the parameters of `physics/`, and its validation against published references."""
