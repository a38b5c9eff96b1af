"""If the search pass repeats the target pass, no unit is flipped, and a warning names remedies."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, AdversarialDropoutWarning, VirtualAdversarialDropout

from .recording import FORMS, Net, Recorder, batch, build, in_form

EACH_FORM = pytest.mark.parametrize("form", FORMS)


@contextmanager
def warns_of_repetition() -> Iterator[None]:
    with pytest.warns(AdversarialDropoutWarning, match="search pass repeats the target pass") as caught:
        yield
    assert len(caught) == 1


def flips(net: Net) -> int:
    """Number of units that the last pass dropped; with p = 0 these are flips."""
    return int((~net.above.runs[-1].mask).sum())


@EACH_FORM
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_passes_that_do_not_differ_flip_nothing_and_warn_once_per_regulariser(form: str, noise: str) -> None:
    net = build(form, p=0.0)
    x, _ = batch()
    reg = VirtualAdversarialDropout(noise=noise)  # type: ignore[arg-type]
    with warns_of_repetition():
        loss = reg(net.model, x)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert flips(net) == 0
    reg(net.model, x)
    with warns_of_repetition():
        VirtualAdversarialDropout(noise=noise)(net.model, x)  # type: ignore[arg-type]


def test_the_warning_names_each_remedy() -> None:
    with pytest.warns(AdversarialDropoutWarning) as caught:
        VirtualAdversarialDropout()(build(p=0.0).model, batch()[0])
    message = str(caught[0].message)
    for remedy in ("p > 0", "noise", 'noise="independent"', "two views", "target="):
        assert remedy in message


@EACH_FORM
def test_p_above_0_is_a_remedy(form: str) -> None:
    net = build(form, p=0.2)
    base = VirtualAdversarialDropout(noise="shared")(net.model, batch()[0])
    assert base.item() > 1e-6
    assert not torch.equal(net.above.runs[0].mask, net.above.runs[-1].mask)


@EACH_FORM
def test_independent_noise_is_a_remedy(form: str) -> None:
    net = build(form, p=0.0, std=0.1)
    VirtualAdversarialDropout(noise="independent")(net.model, batch()[0])
    assert flips(net) > 0


@pytest.mark.parametrize("form", ["sequential", "methods"])
@pytest.mark.parametrize("side", ["below", "above"])
def test_noise_on_one_side_is_enough(form: str, side: str) -> None:
    net = build(form, p=0.0)
    (net.below if side == "below" else net.above).std = 0.1
    VirtualAdversarialDropout()(net.model, batch()[0])
    assert flips(net) > 0


@EACH_FORM
def test_shared_noise_is_none_also_above_the_layer(form: str) -> None:
    net = build(form, p=0.0, std=0.1)
    with warns_of_repetition():
        VirtualAdversarialDropout(noise="shared")(net.model, batch()[0])
    assert flips(net) == 0


@EACH_FORM
def test_two_views_are_a_remedy(form: str) -> None:
    net = build(form, p=0.0)
    x, _ = batch()
    VirtualAdversarialDropout()(net.model, x, target=net.model(x + 0.1))
    assert flips(net) > 0


@EACH_FORM
def test_only_the_rows_that_repeat_flip_nothing_and_that_is_no_reason_to_warn(form: str) -> None:
    net = build(form, p=0.0)
    x, _ = batch(6)
    view = x.clone()
    view[[0, 2, 3]] += 0.1
    VirtualAdversarialDropout()(net.model, x, target=net.model(view))
    assert (~net.above.runs[-1].mask).any(dim=1).tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize(("difference", "flipped"), [(0.0, False), (5e-7, False), (1e-4, True)])
def test_rows_agree_within_a_millionth(difference: float, flipped: bool) -> None:
    net = build(p=0.0)
    x, _ = batch()
    target = net.model(x).detach()
    target[:, 0] += difference
    target[0] += torch.tensor([1.0, 0.0, 0.0])
    VirtualAdversarialDropout()(net.model, x, target=target)
    dropped = (~net.above.runs[-1].mask).any(dim=1).tolist()
    assert dropped == [True, *[flipped] * 4]


def test_float32_rounding_counts_as_agreement() -> None:
    """The same sums in another order: J would be about 1e-8 and still flip nearly every unit."""
    torch.manual_seed(0)
    above = Recorder()
    head = nn.Linear(200, 3)
    model = in_form("sequential", [nn.Linear(6, 200)], [AdversarialDropout(0.0, 0.1), above, head])
    x = torch.randn(16, 6)
    h = model[0](x)  # type: ignore[index]
    order = torch.randperm(200)
    target = h[:, order] @ head.weight[:, order].T + head.bias
    assert not torch.equal(target, model(x))
    with warns_of_repetition():
        VirtualAdversarialDropout()(model, x, target=target)
    assert above.runs[-1].mask.all()


@pytest.mark.parametrize("form", FORMS)
def test_a_base_mask_that_differs_only_in_some_rows(form: str) -> None:
    """With p > 0 and nothing rescaled, a row whose base mask happens to be all ones repeats."""
    torch.manual_seed(0)
    above, layer = Recorder(), AdversarialDropout(0.3, 0.34, rescale="none")
    model = in_form(form, [nn.Linear(6, 3), nn.Softplus()], [layer, above, nn.Linear(3, 3)]).double()
    x, _ = batch(60)
    with pytest.warns(AdversarialDropoutWarning, match="smaller in training"):
        VirtualAdversarialDropout()(model, x)
    base, found = above.runs[0].mask, above.runs[-1].mask
    full = base.all(dim=1)
    assert full.any()
    assert torch.equal(found[full], base[full])
    assert (found != base).any(dim=1)[~full].double().mean() > 0.5


def test_a_layer_whose_rows_are_not_the_examples() -> None:
    """Then a row of the layer belongs to no example, and units stay unflipped only if the whole batch repeats."""
    torch.manual_seed(0)
    above = Recorder()
    parts: list[nn.Module] = [nn.Unflatten(1, (3, 2)), nn.Flatten(0, 1), AdversarialDropout(0.0, 0.5)]
    model = nn.Sequential(*parts, above, nn.Unflatten(0, (-1, 3)), nn.Flatten(1), nn.Linear(6, 3)).double()
    x, _ = batch()
    x = x.abs() + 0.1
    view = x.clone()
    view[0] += 0.5

    def dropped(target: Tensor) -> int:
        VirtualAdversarialDropout()(model, x, target=target)
        return int((~above.runs[-1].mask).sum())

    assert dropped(model(view)) > 0
    with warns_of_repetition():
        assert dropped(model(x)) == 0
