"""The durable spool: what a producer handed over is on this machine's disk before it is acknowledged to it."""
