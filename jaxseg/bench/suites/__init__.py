"""The suites of the benchmark: a module for each, with the cases of it in CASES."""
