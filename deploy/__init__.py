"""What runs around the twin: versions and settings of the servers, in compose and on one machine."""
