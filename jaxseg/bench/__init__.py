"""Benchmarks of jaxseg and of other libraries on the same work. See `__main__` for the command."""
