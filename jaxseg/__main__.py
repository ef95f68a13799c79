"""The command line `jaxseg COMMAND ...`, also run as `python -m jaxseg COMMAND ...`: the modes of jaxseg.main, and some tools."""

from jaxseg.utils.command import begin
from jaxseg.utils.process import start_with_huge_pages


def run() -> None:
    """Entry point of the console script."""
    begin(stop_code=42)
    start_with_huge_pages()  # before jax is imported

    import sys

    from jaxseg import dispatch

    dispatch.run(sys.argv)


if __name__ == "__main__":
    run()
