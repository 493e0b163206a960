"""A real Kafka, an emulator of Port and a worker, for test_end_to_end.py."""

pytest_plugins = ["local.pytest_plugin"]
