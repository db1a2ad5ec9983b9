"""The benchmarks: `python -m bench` (API load) and `python -m bench.first_picture` (a real desktop); docs/bench.md."""
