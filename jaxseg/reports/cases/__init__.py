"""The cases of a page: their pictures, the viewer, and several models side by side."""
