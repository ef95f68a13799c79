"""The benchmark on a GPU (`python -m jaxseg.bench --gpu`): its stages, what each measures, and several of them at a time."""
