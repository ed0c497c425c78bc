"""The stream scorer: readings from Kafka, folded and predicted checkpoint by checkpoint, to Kafka and the store."""
