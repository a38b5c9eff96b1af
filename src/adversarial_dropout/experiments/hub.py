"""The Hugging Face hub: whether it can be reached."""

import contextlib
import threading

_SECONDS = 5.0


def answers() -> bool:
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
