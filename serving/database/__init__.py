"""The database predictor: predictions from the new rows of a database table, for sites without Kafka."""
