"""Several processes as one run: connecting, agreeing on values, stopping on signals, and recording their environment."""
