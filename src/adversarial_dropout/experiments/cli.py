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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 after an error of the user's, 1 after another, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without Greek letters still shows the rest.
    console = Console()
    warnings.showwarning = _show_warning
    try:
        match parse(arguments):
            case Demo() as command:
                training.demo(command, console)
            case Train() as command:
                training.train(command, console)
            case Reproduce() as command:
                reproduction.reproduce(command, console)
            case Evaluate() as command:
                looking.evaluate(command, console)
            case Predict() as command:
                looking.predict(command)
            case Export() as command:
                looking.export(command, console)
            case Inspect() as command:
                looking.inspect(command, console)
            case Theory() as command:
                looking.theory(command, console)
            case Presets():
                looking.list_presets(console)
            case Report() as command:
                looking.report(command, console)
    except AdversarialDropoutError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished epoch of each run", file=sys.stderr)
        sys.exit(130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
