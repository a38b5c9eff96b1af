"""The command ``adversarial-dropout``: reads arguments, calls what they ask for, says what went wrong."""

import io
import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

from adversarial_dropout.errors import AdversarialDropoutError
from adversarial_dropout.experiments.arguments import (
    Demo,
    Evaluate,
    Export,
    Inspect,
    Predict,
    Presets,
    Report,
    Reproduce,
    Theory,
    Train,
    parse,
)
from adversarial_dropout.experiments.commands import looking, reproduction, training
from adversarial_dropout.experiments.training import processes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after an error of the user's, 1 after another, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without Greek letters still shows the rest.
    rank = processes.rank()
    console = Console(quiet=rank > 0)
    warnings.showwarning = _show_warning
    try:
        command = parse(arguments)
        if not isinstance(command, Train):
            processes.refuse_several(type(command).__name__.lower())
        match command:
            case Demo():
                training.demo(command, console)
            case Train():
                training.train(command, console)
            case Reproduce():
                reproduction.reproduce(command, console)
            case Evaluate():
                looking.evaluate(command, console)
            case Predict():
                looking.predict(command)
            case Export():
                looking.export(command, console)
            case Inspect():
                looking.inspect(command, console)
            case Theory():
                looking.theory(command, console)
            case Presets():
                looking.list_presets(console)
            case Report():
                looking.report(command, console)
    except AdversarialDropoutError as error:
        where = f"rank {rank}: " if processes.launched() > 1 else ""
        print(f"error: {where}{error}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished epoch of each run", file=sys.stderr)
        sys.exit(130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if processes.rank() == 0:  # The others have the same cause.
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
