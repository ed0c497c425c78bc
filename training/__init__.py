"""Forests, their honest evaluation, and the registry that decides which of them serve."""
