"""Cases in a page: their pictures, the viewer, and several models side by side."""
