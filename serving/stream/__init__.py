"""The stream scorer: reads readings from Kafka and writes predictions to Kafka and the telemetry store."""
