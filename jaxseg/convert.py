"""`python -m jaxseg.convert`: convert weights from and to PyTorch; weights/convert.py describes the command line."""

from jaxseg.utils import command
from jaxseg.weights.convert import main

if __name__ == "__main__":
    command.run("jaxseg.convert", main)
