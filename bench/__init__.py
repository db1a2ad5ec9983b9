"""The benchmarks: `python -m bench` (API load), `python -m bench.first_picture` (a real desktop); docs/benchmarks.md."""
