"""The benchmarks: ``make bench``, or ``python -m bench --help``; ``docs/bench.md`` has method and results."""
