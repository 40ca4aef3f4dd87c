"""Scripts that print the numbers of benchmarks/results/ and of the README: `python -m benchmarks.NAME`."""
