"""Schemas derived from the contract: expectations, request models, message schema and SQL columns."""
