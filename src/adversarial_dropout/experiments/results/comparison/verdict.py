"""What a comparison says in plain words: which method is worth it, how sure that is, and what to do next."""

from dataclasses import dataclass

from adversarial_dropout.experiments.classical import LOGISTIC, MAJORITY, SELF_TRAINING, VECTORS
from adversarial_dropout.experiments.config import ExperimentConfig
from adversarial_dropout.experiments.models.pretrained import Pretrained
from adversarial_dropout.experiments.results.comparison.comparison import (
    ENOUGH,
    Comparison,
    Row,
    by_chance,
    interval,
)

_PARTS = {
    "at": "the right answer on labelled images that are changed a little in the worst way",
    "pi": "the same answer for two randomly altered copies of an image",
    "vat": "the same answer for an image and a copy that is changed a little in the worst way",
    "sadd": "the right answer on labelled images while the units of the network that matter most are switched off",
    "vadd-kl": "the same answer while the units of the network that matter most are switched off",
    "vadd-qe": "the same answer while the units of the network that matter most are switched off (measured otherwise)",
}
_OTHERS = {
    "plain": "A network learns from the labelled images alone.",
    LOGISTIC: "A classic method on the features of the same pretrained network. It takes seconds.",
    SELF_TRAINING: "The same, repeated with its own surest answers on the unlabelled images as further labels.",
    VECTORS: "A classic method that looks at the pixels. It takes seconds.",
    MAJORITY: "Always answers with the most frequent class. Whoever has learnt something is better.",
}
_CHEAPER = 0.8
_FEW_TESTED = 200
_FEW_LABELS = 40


@dataclass(frozen=True)
class Verdict:
    """The answer: a title, and sentences that explain it."""

    title: str
    sentences: tuple[str, ...]


def explained(method: str) -> str:
    """What a method does, in plain words."""
    if method in _OTHERS:
        return _OTHERS[method]
    asked = " and ".join(_PARTS[part] for part in method.split("+") if part in _PARTS)
    return f"Like plain, but the network is also asked for {asked}."


def verdict(comparison: Comparison) -> Verdict:
    """Which method is worth it, from the outcomes of :class:`~.comparison.Difference`."""
    if comparison.scale == "tiny":
        return Verdict(
            "Two steps of training: the errors mean nothing",
            ("Scale tiny only shows that everything runs. Leave --scale out for an answer.",),
        )
    best = min(comparison.trained, key=lambda row: row.error.mean)
    trivial = comparison.named(MAJORITY)
    if trivial is not None and min(row.error.mean for row in comparison.rows if row is not trivial) >= (
        trivial.error.mean
    ):
        return Verdict(
            "Nothing is learnt yet",
            (
                f"No method makes fewer mistakes than the answer that is always the same ({trivial.error.mean:.1f} %). "
                "Look at the images and their labels, and add labels.",
            ),
        )
    if comparison.plain is None:
        return Verdict("There is nothing to compare with", ("Plain training has failed; the errors above say why.",))
    found = _among_networks(comparison, best)
    return _beside(comparison, found, _champion(comparison, best))


def _better(comparison: Comparison) -> list[Row]:
    """The networks that are better than plain training, the best first."""
    rows = [row for row in comparison.trained if _outcome(comparison, row, None) == "better"]
    return sorted(rows, key=lambda row: row.error.mean)


def _champion(comparison: Comparison, best: Row) -> Row:
    """The network to recommend: the best that is better than plain training, or plain training."""
    return next(iter(_better(comparison)), comparison.plain or best)


def _outcome(comparison: Comparison, row: Row, other: Row | None) -> str | None:
    difference = comparison.difference(row, other)
    return None if difference is None else difference.outcome


def _percent(row: Row) -> str:
    return f"{row.error.mean:.1f} %"


def _among_networks(comparison: Comparison, best: Row) -> Verdict:
    plain, better = comparison.plain, _better(comparison)
    assert plain is not None
    others = [row for row in comparison.trained if row is not plain]
    if not others:
        return Verdict("Only plain training is there", (f"It is wrong on {_percent(plain)} of the images.",))
    if comparison.repetitions < ENOUGH:
        return Verdict(
            "Too few repetitions to tell",
            (
                f"The lowest error is that of {best.method}, {_percent(best)}; plain training has {_percent(plain)}. "
                f"Each method was trained {_times(comparison.repetitions)}, and another random start may turn the "
                f"order around: repeat this with --seeds {ENOUGH} or more.",
            ),
        )
    if better:
        return _worth_it(comparison, better)
    if all(_outcome(comparison, row, None) == "worse" for row in others):
        return Verdict(
            "No: plain training is the best network on these images",
            (f"It is wrong on {_percent(plain)} of the images. Each of the other methods makes more mistakes.",),
        )
    sentences = [f"Plain training is wrong on {_percent(plain)} of the images."]
    if best is plain:
        sentences.append("No other method makes fewer mistakes on average.")
    else:
        why = {
            "within the spread": "but not with every repetition, or by less than the repetitions differ: that may be "
            "chance",
            "too few test images": f"but {comparison.images.tested} test images are too few to trust such a difference",
        }[str(_outcome(comparison, best, None))]
        sentences.append(f"The lowest error is that of {best.method}, {_percent(best)}, {why}.")
    return Verdict("No method is clearly better than plain training on these images", tuple(sentences))


def _worth_it(comparison: Comparison, better: list[Row]) -> Verdict:
    plain, winner = comparison.plain, better[0]
    difference, cost = comparison.difference(winner), comparison.cost(winner)
    assert plain is not None
    assert difference is not None
    takes = "" if cost is None else f" Its training takes {cost:.1f} times as long."
    sentences = [
        f"{winner.method} is wrong on {_percent(winner)} of the images, plain training on {_percent(plain)}. It makes "
        f"fewer mistakes with {difference.wins} of {len(difference.points)} repetitions.{takes}"
    ]
    for row in better[1:]:
        own = comparison.cost(row)
        if own and cost and own < _CHEAPER * cost and _outcome(comparison, row, winner) != "worse":
            sentences.append(
                f"{row.method} ({_percent(row)}) is not clearly behind, and takes {own:.1f} times as long as plain "
                f"training."
            )
    return Verdict(f"Yes: {winner.method} is worth it on these images", tuple(sentences))


def _beside(comparison: Comparison, found: Verdict, champion: Row) -> Verdict:
    """Add how classifiers that are no networks compare with the network to recommend."""
    title, sentences = found.title, list(found.sentences)
    rivals = sorted(comparison.beside, key=lambda row: row.error.mean)
    ahead = [row for row in rivals if row.method != MAJORITY and _outcome(comparison, row, champion) == "better"]
    if ahead:
        title = f"A simpler method is better on these images: {ahead[0].method}"
    for row in rivals:
        difference = comparison.difference(row, champion)
        if row.method == MAJORITY or difference is None:
            continue
        words = {"better": "is ahead of", "worse": "is behind"}.get(difference.outcome, "cannot be told apart from")
        sentences.append(f"{row.method.capitalize()} ({_percent(row)}) {words} {champion.method}.")
    return Verdict(title, tuple(sentences))


def certainty(comparison: Comparison) -> tuple[str, ...]:
    """How the errors were measured, and how far they can be trusted."""
    images, best = comparison.images, min(comparison.trained, key=lambda row: row.error.mean)
    low, high = interval(best.error.mean, images.tested)
    part = (
        "test images, which no method has learned from"
        if images.evaluated_on == "test"
        else "images that were held out of the training images"
    )
    sentences = [
        f"Errors are shares of wrong answers on {images.tested} {part}. With so many, an error of "
        f"{best.error.mean:.1f} % means that on new images of the same kind it is probably between {low:.1f} % and "
        f"{high:.1f} % (95 % interval)."
    ]
    if comparison.repetitions >= ENOUGH:
        chance = 100 * by_chance(comparison.repetitions)
        sentences.append(
            f"Each method was trained {_times(comparison.repetitions)}, with the same labels and other random numbers. "
            f"“Better” means fewer mistakes with each repetition, by more than the repetitions differ, and by more "
            f"than so few test images can cause. With {comparison.repetitions} repetitions a method without any effect "
            f"passes the second of these in about {chance:.0f} of 100 comparisons, so it is a good sign and no proof."
        )
    else:
        sentences.append(f"Each method was trained {_times(comparison.repetitions)}: that is too few to rank methods.")
    return tuple(sentences)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def advice(comparison: Comparison, config: ExperimentConfig) -> tuple[str, ...]:
    """What to do next, the most useful first."""
    images, data = comparison.images, config.data
    pretrained = isinstance(config.model, Pretrained)
    advised = []
    if not pretrained:
        advised.append(
            "Photographs of things, animals, plants or places? Add --model.name pretrained: a network that has seen "
            "many other pictures usually makes far fewer mistakes."
        )
    if not (data.flip or pretrained):
        advised.append("Does a mirrored image mean the same? Add --data.flip. Do not with letters, digits or signs.")
    least = min(images.labels)
    if least < _FEW_LABELS:
        rarest = images.classes[images.labels.index(least)]
        advised.append(
            f"Label more images: class {rarest} has {least} labelled image{'s' if least > 1 else ''} to learn from. "
            f"More labels are the surest way to fewer mistakes."
        )
    if not images.unlabelled:
        advised.append(
            "Add images without a label, in a folder named unlabeled: most of the methods here live on them."
        )
    if images.tested < _FEW_TESTED:
        advised.append(
            f"Use more test images: {images.tested} are few. --test FOLDER takes a folder with labelled images of the "
            f"same classes."
        )
    if comparison.repetitions < ENOUGH:
        advised.append(f"Repeat with --seeds {ENOUGH}: what is finished is not trained again.")
    return tuple(advised)
