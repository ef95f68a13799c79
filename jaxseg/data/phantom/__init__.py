"""Generators of synthetic data: parts of the head CT (noise, anatomy, bleeds; `jaxseg.data.synthetic`), brain tumours in MRI."""
