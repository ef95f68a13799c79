"""Activation functions by name, with gradients that are exact and save little memory."""
