"""Web console on port 5002: pages for the battery fleet and the REST API.

    python -m console

Subpackages: `api` (REST routes), `alerts` (alert rules, lifecycle and storage), `pages` (NiceGUI pages).
"""
