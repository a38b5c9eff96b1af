"""The command ``adversarial-dropout``: reads arguments, runs what they ask for, says what went wrong."""

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, cast

import tyro
from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after an error of the user's, 1 after another, 130 after Ctrl-C."""
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
        print("stopped; the same command goes on from the last finished epoch of each run", file=sys.stderr)
        sys.exit(130)


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line; print help or an error and exit where that is called for."""
    train = Train.asked_for(arguments[1:]) if arguments[:1] == ["train"] else Train()
    command = tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Theory, tyro.conf.subcommand("theory")]
        | Annotated[Presets, tyro.conf.subcommand("presets")]
        | Annotated[Report, tyro.conf.subcommand("report")],
        args=arguments,
        prog="adversarial-dropout",
        description="Adversarial dropout for PyTorch (Park, Park, Shin, Moon; AAAI 2018).",
        config=(tyro.conf.PositionalMetavarFromFieldName,),
    )
    return cast(Command, command)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if ranks.rank() == 0:  # The others have the same cause.
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
