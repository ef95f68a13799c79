"""Bundles of MONAI: their JSON read as the settings of a run, without running any of its expressions."""
