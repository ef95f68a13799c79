"""From a file's arrays to what a network sees, and from its scores back."""
