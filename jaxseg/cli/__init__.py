"""The command line: commands, flags, help, config files, and the check of the installation. jax is imported only where
something is computed.
"""
