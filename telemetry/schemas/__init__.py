"""What follows from the contract: expectations, request models, the message schema and SQL columns."""
