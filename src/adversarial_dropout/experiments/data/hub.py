"""Loads data sets from the Hugging Face hub, or from what was downloaded before."""

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

from adversarial_dropout.experiments.records import RecordError

_SECONDS = 5.0


@dataclass(frozen=True)
class Hub:
    """A data set on the hub: OWNER/NAME, and one of its subsets if it has several."""

    name: str
    subset: str | None = None

    @property
    def identity(self) -> str:
        """Identifies the decoded images in the cache."""
        return f"hub {self.name} {self.subset}"

    def load(self) -> dict[str, Any]:
        """Load all splits, each a ``datasets.Dataset``."""
        import datasets

        answers = _hub_answers()
        offline = datasets.config.HF_HUB_OFFLINE
        try:
            # Without the hub, datasets then uses its own cache or fails at once; otherwise it would keep trying.
            datasets.config.HF_HUB_OFFLINE = offline or not answers
            return dict(datasets.load_dataset(self.name, self.subset))
        except Exception as error:  # datasets raises many kinds of errors.
            if answers:
                raise RecordError(
                    f"cannot load {self.name} from the Hugging Face hub, and there is no folder of that name here: "
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                ) from error
            raise RecordError(
                f"cannot load {self.name}: the Hugging Face hub does not answer, and there is no folder of that name "
                f"here. On another machine, download train-*.parquet and test-*.parquet from "
                f"https://huggingface.co/datasets/{self.name}/tree/main{f'/{self.subset}' if self.subset else ''}, put "
                f"them into a folder here, and give that with --data FOLDER"
            ) from error
        finally:
            datasets.config.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    """Whether the hub answers within seconds."""
    import huggingface_hub

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):  # Any error means that there was no answer.
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_SECONDS)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)  # Looking up the host's name may take longer than any timeout.
    return answered.is_set()
