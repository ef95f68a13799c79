"""Pretrained networks from other projects' packages, by name. Their weights are read; their code is neither copied nor run."""
