"""Ours beside its peers on the same work: one command, one table. See `__main__` for the command."""
