"""`python -m jaxseg.convert`: weights from PyTorch and back. The command line is described in weights/convert.py."""

import sys

from jaxseg.types import JaxsegError
from jaxseg.weights.convert import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except JaxsegError as error:
        print(f"jaxseg.convert: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
