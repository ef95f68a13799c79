"""The command line around the modes: commands, help, where config files lie, what is installed. Nothing here imports jax
before it has something to compute.
"""
