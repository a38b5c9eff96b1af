"""A data set on the Hugging Face hub, with or without a network."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adversarial_dropout.experiments.records import RecordError

_SECONDS = 5.0


@dataclass(frozen=True)
class Hub:
    """A data set on the hub.

    Attributes:
        name: OWNER/NAME.
        subset: Which of its parts, if it has several.
    """

    name: str
    subset: str | None = None

    @property
    def identity(self) -> str:
        """What the decoded images are kept under."""
        return f"hub {self.name} {self.subset}"

    def load(self, scratch: str) -> dict[str, Any]:
        """The splits by name, each a ``datasets.Dataset``; ``scratch`` is not used.

        Raises:
            RecordError: it cannot be had, for want of a network or other reasons.
        """
        import datasets

        answers = _answers()
        try:
            with contextlib.nullcontext() if answers else _offline():
                return dict(datasets.load_dataset(self.name, self.subset))
        except Exception as error:  # What datasets raises depends on what went wrong where.
            if answers:
                raise RecordError(
                    f"cannot load {self.name} from the Hugging Face hub, and there is no folder of that name here: "
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                ) from error
            raise RecordError(
                f"cannot load {self.name}: the Hugging Face hub does not answer, and there is no folder of that name "
                f"here. With another machine, download train-*.parquet and test-*.parquet from "
                f"https://huggingface.co/datasets/{self.name}/tree/main{f'/{self.subset}' if self.subset else ''}, put "
                f"them into a folder here, and give that with --data FOLDER"
            ) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Within, ``datasets`` uses what it downloaded before, or fails at once; otherwise it would try for long."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _answers() -> bool:
    """Whether the hub gives any answer at all within seconds."""
    import huggingface_hub

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):  # Of whatever kind: there was no answer.
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_SECONDS)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)  # Looking up the name may take longer than any timeout.
    return answered.is_set()
