"""Deployment: versions, configuration and start of the servers, in compose and on one machine."""
