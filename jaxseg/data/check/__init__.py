"""Checks of a data set: read every case once, report what it holds, and list everything that is wrong."""
