"""Experiments: evaluation of runs, comparisons of many runs, and the search for class weights."""
