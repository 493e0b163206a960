"""What stands in for the outside on a laptop and in tests: a real Apache Kafka, an emulator of Port, the demo."""
