"""`python -m jaxseg.importing` is the same as `jaxseg import`."""

from jaxseg.importing.command_line import main
from jaxseg.utils import command

if __name__ == "__main__":
    command.run("jaxseg.importing", main)
