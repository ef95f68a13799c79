"""`python -m jaxseg.importing`: trained models of other programs as run folders, as `jaxseg import` does."""

from jaxseg.importing.command_line import main
from jaxseg.utils import command

if __name__ == "__main__":
    command.run("jaxseg.importing", main)
