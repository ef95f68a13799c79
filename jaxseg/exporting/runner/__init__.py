"""The program inside an exported model: what `exporting.bundle` joins to one file, runner.py.

Nothing here imports anything but Python's own library, numpy, jax and scipy (which jax itself requires), and Pillow where a
picture is read or written. Names are unique over these modules, because they end up in one.
"""
