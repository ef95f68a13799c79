"""`python -m jaxseg.convert`: weights from PyTorch and back. The command line is described in weights/convert.py."""

from jaxseg.utils import command
from jaxseg.weights.convert import main

if __name__ == "__main__":
    command.run("jaxseg.convert", main)
