"""The studies as a user of the shell runs them."""

from studies import cli


def run(*arguments):
    """The exit status of ``python -m studies`` with these arguments, or its last words."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code
