"""Entry of the command ``adversarial-dropout``, which says what to install where the extra is missing."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from adversarial_dropout.experiments.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("adversarial_dropout"):
            raise
        sys.exit(f"error: the command needs {error.name}; pip install 'adversarial-dropout[experiments]'")
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
