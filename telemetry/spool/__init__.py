"""Durable spool: rows are on the local disk before they are acknowledged to their producer."""
