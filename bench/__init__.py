"""The benchmark: one worker against two hand-written loops, on a real Kafka and an emulator of Port.

    make bench BENCH_ARGS="--runs 1 --burst 2000 --seconds 10"

docs/benchmarks.md says what is measured and how. In the order of reading: `options`, `rounds` (who is measured when),
`trial` (one subject from its start to its figures), `record` (what the emulator saw), `figures` and `report`.
"""
