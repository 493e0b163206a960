"""What can go wrong with the embedded Kafka: `KafkaError`, each with one line that a person can act on."""


class KafkaError(Exception):
    """The embedded Kafka could not be fetched, started or reached; the message is one clear line."""
