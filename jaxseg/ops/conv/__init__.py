"""Convolutions: `api` checks the arguments, `dispatch` chooses a lowering from `cpu`, `gpu` or XLA, `reference` is plain XLA."""
