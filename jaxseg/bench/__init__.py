"""Benchmarks of jaxseg and other libraries on the same tasks; `__main__` describes the command."""
