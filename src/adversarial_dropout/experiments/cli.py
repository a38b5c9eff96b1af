"""The command ``adversarial-dropout``: reads arguments, runs what they ask for, says what went wrong."""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import tyro
from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.commands.compare import Compare
from adversarial_dropout.experiments.commands.demo import Demo
from adversarial_dropout.experiments.commands.evaluate import Evaluate
from adversarial_dropout.experiments.commands.export import Export
from adversarial_dropout.experiments.commands.inspect import Inspect
from adversarial_dropout.experiments.commands.options import Command
from adversarial_dropout.experiments.commands.predict import Predict
from adversarial_dropout.experiments.commands.presets import Presets
from adversarial_dropout.experiments.commands.report import Report
from adversarial_dropout.experiments.commands.reproduce import Reproduce
from adversarial_dropout.experiments.commands.theory import Theory
from adversarial_dropout.experiments.commands.train import Train
from adversarial_dropout.experiments.run import ranks

_NAME = "adversarial-dropout"
_COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__.lower(): command
    for command in (Demo, Train, Compare, Reproduce, Evaluate, Predict, Export, Inspect, Theory, Presets, Report)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after a mistake of the user's, 1 after another error, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without Greek letters still shows the rest.
    warnings.showwarning = _show_warning
    try:
        command = parse(arguments)
        if not isinstance(command, Train):
            ranks.refuse_several(type(command).__name__.lower())
        command.run(Console(quiet=ranks.rank() > 0))
    except AdversarialDropoutError as error:
        where = f"rank {ranks.rank()}: " if ranks.launched() > 1 else ""
        print(f"error: {where}{error}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
    except KeyboardInterrupt:
        print("stopped; the same command resumes each run from its last finished epoch", file=sys.stderr)
        sys.exit(130)


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line. Exit where it asks for help, or is wrong."""
    name, *rest = arguments or [""]
    if name not in _COMMANDS:  # Print the list of commands, or say that there is no such command, and exit.
        description = "Adversarial dropout for PyTorch (Park, Park, Shin, Moon; AAAI 2018)."
        tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog=_NAME, description=description, args=arguments)
    depending: dict[str, Callable[[Sequence[str]], Any]] = {"train": Train.asked_for, "compare": Compare.asked_for}
    default: Any = depending[name](rest) if name in depending else tyro.MISSING_NONPROP
    command = tyro.cli(
        _COMMANDS[name],
        args=rest,
        prog=f"{_NAME} {name}",
        config=(tyro.conf.PositionalMetavarFromFieldName,),
        default=default,
    )
    return cast(Command, command)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if ranks.rank() == 0:  # The others have the same cause.
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
