"""A real single-node Apache Kafka from pip packages alone: no Java, Maven or Docker of the machine is used."""

from local.kafka.broker import EmbeddedKafka
from local.kafka.errors import KafkaError
from local.kafka.jars import fetch_jars
from local.kafka.net import free_port
from local.kafka.secured import Security

__all__ = ["EmbeddedKafka", "KafkaError", "Security", "fetch_jars", "free_port"]
