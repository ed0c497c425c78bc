"""The database predictor: live predictions for sites without Kafka, from the new rows of a table."""
