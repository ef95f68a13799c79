"""The user's own data in common layouts; classes and channels are read from the files."""
