"""The benchmarks: `python -m bench` (API load), `python -m bench.first_picture` (a desktop);
docs/benchmarks.md.
"""
