"""Convert trained models of other programs into run folders (`jaxseg import`), without running or installing those programs."""
