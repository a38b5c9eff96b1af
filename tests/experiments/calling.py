"""The command line, called in this process."""

import contextlib
import io

import pytest

from adversarial_dropout.experiments import cli


def printed_by(*arguments: object) -> str:
    """Run the command to its end and return what it prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        cli.main([str(argument) for argument in arguments])
    return text.getvalue()


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run a command that fails and return its exit code and what it says on stderr, without a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert isinstance(end.value.code, int)
    return end.value.code, " ".join(printed.err.split())


def rows(printed: str) -> list[list[str]]:
    """The cells of the rows of a table in the terminal."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
