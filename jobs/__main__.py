"""``python -m jobs COMMAND ...``: ``patchcert`` from a copy of the code that is not installed."""

from jobs.cli import entry

if __name__ == "__main__":
    entry()
