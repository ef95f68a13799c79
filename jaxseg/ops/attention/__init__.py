"""Multi-head attention: by cuDNN, with the whole score matrix, or block by block."""
