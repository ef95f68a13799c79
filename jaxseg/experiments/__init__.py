"""Experiments: evaluation of runs, comparisons of many runs, searches over keys of the config, and costs of networks."""
