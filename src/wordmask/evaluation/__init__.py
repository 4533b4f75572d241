"""Numbers: metrics, protocols, runs over benchmarks and their reports."""
