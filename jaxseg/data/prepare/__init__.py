"""Preparation: from a file's arrays to the network's input, and from the network's scores back to the image's grid."""
