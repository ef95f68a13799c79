"""Generators of synthetic data: head CT (ct_ich.py; its noise, anatomy, bleeds) and brain tumours in MRI."""
