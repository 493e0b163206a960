"""The demo: Kafka, the Port emulator and a worker on this machine, and the four example workflows run through them.

`make demo` and `python -m local.demo` start it; `--help` lists its options.
"""
