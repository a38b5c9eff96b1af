"""How often each part of a model runs, with which graph, and where a model is cut."""

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import (
    AdversarialDropout,
    PiModel,
    SupervisedAdversarialDropout,
    VirtualAdversarialDropout,
    VirtualAdversarialTraining,
)

from .recording import CUT, FORMS, METHODS, FeaturesAndHead, Methods, Net, Opaque, Recorder, batch, build


def runs(net: Net) -> tuple[int, int]:
    return len(net.below.runs), len(net.above.runs)


def forget(net: Net) -> None:
    net.below.runs.clear()
    net.above.runs.clear()


@pytest.mark.parametrize("form", CUT)
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("vadd", (2, 3)),
        ("vadd-shared", (1, 3)),
        ("sadd", (1, 2)),
        ("pi", (2, 2)),
        ("vat", (3, 3)),
        ("at", (2, 2)),
        ("entropy", (1, 1)),
    ],
)
def test_a_model_that_can_be_cut_runs_its_under_part_no_more_than_needed(
    form: str, method: str, expected: tuple[int, int]
) -> None:
    net = build(form)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert runs(net) == expected


@pytest.mark.parametrize(
    ("method", "expected"), [("vadd", 3), ("vadd-shared", 3), ("sadd", 2), ("pi", 2), ("vat", 3), ("at", 2)]
)
def test_a_whole_model_runs_once_for_each_pass(method: str, expected: int) -> None:
    net = build("opaque")
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    assert runs(net) == (expected, expected)


@pytest.mark.parametrize(
    ("form", "method", "expected"),
    [
        ("sequential", "vadd", (1, 2)),
        ("methods", "vadd", (1, 2)),
        ("opaque", "vadd", (2, 2)),
        ("sequential", "pi", (1, 1)),
        ("opaque", "pi", (1, 1)),
        ("sequential", "vat", (2, 2)),
        ("opaque", "vat", (2, 2)),
        ("sequential", "entropy", (0, 0)),
        ("sequential", "sadd", (1, 2)),
        ("sequential", "at", (2, 2)),
    ],
)
def test_with_a_target_the_first_pass_is_skipped(form: str, method: str, expected: tuple[int, int]) -> None:
    net = build(form)
    x, y = batch()
    target = net.model(x)
    forget(net)
    METHODS[method]()(net.model, x, y, target=target)
    assert runs(net) == expected


def test_sharing_with_a_target_runs_only_the_head_twice() -> None:
    net = build()
    x, _ = batch()
    head = nn.Sequential(net.layer, net.above, net.head)
    h = net.below(net.stem(x))
    target = head(h)
    forget(net)
    VirtualAdversarialDropout(noise="shared")(head, h, target=target)
    assert runs(net) == (0, 2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_each_power_iteration_is_one_run(steps: int) -> None:
    net = build()
    VirtualAdversarialTraining(steps=steps)(net.model, batch()[0])
    assert runs(net) == (steps + 2, steps + 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("method", "trainable"),
    [
        ("vadd", [True, False, True]),
        ("vadd-shared", [True, False, True]),
        ("sadd", [False, True]),
        ("vat", [False, True]),
        ("at", [False, True]),
        ("pi", [True, True]),
    ],
)
def test_only_the_search_takes_the_parameters_as_constants(form: str, method: str, trainable: list[bool]) -> None:
    net = build(form)
    x, y = batch()
    METHODS[method]()(net.model, x, y)
    counted = net.above.runs[-2:] if method == "vat" else net.above.runs  # VAT's target pass needs no graph
    assert [run.trainable for run in counted] == trainable


@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_the_search_through_a_whole_model_has_no_graph_below_the_layer(method: str) -> None:
    net = build("opaque")
    x, y = batch()
    METHODS[method]()(net.model, x.requires_grad_(), y)
    search = 0 if method == "sadd" else 1
    assert [run.graph for run in net.below.runs] == [i != search for i in range(len(net.below.runs))]


def pieces(p: float = 0.5) -> tuple[Recorder, Recorder, AdversarialDropout, Recorder]:
    torch.manual_seed(0)
    return Recorder(), Recorder(), AdversarialDropout(p, 0.34), Recorder()


def counts(*recorders: Recorder) -> list[int]:
    return [len(recorder.runs) for recorder in recorders]


def run_vadd(model: nn.Module) -> None:
    VirtualAdversarialDropout()(model.double(), batch()[0])


def test_nested_sequentials_are_opened() -> None:
    first, second, layer, third = pieces()
    inner = nn.Sequential(second, nn.Linear(6, 6), layer, third)
    run_vadd(nn.Sequential(nn.Sequential(first), nn.Sequential(inner, nn.Linear(6, 3))))
    assert counts(first, second, third) == [2, 2, 3]


def test_a_model_with_under_and_upper_inside_a_sequential_is_opened() -> None:
    first, second, layer, third = pieces()
    inner = Methods(nn.Sequential(second), nn.Sequential(layer, third))
    run_vadd(nn.Sequential(first, nn.Linear(6, 6), inner, nn.Linear(6, 3)))
    assert counts(first, second, third) == [2, 2, 3]


def test_a_model_of_timms_form_inside_a_sequential_is_opened() -> None:
    first, second, layer, third = pieces()
    inner = FeaturesAndHead(nn.Sequential(second), nn.Sequential(layer, third))
    run_vadd(nn.Sequential(first, nn.Linear(6, 6), inner, nn.Linear(6, 3)))
    assert counts(first, second, third) == [2, 2, 3]


def test_a_model_of_timms_form_with_a_layer_in_the_features_runs_whole() -> None:
    first, second, layer, third = pieces()
    features = nn.Sequential(first, AdversarialDropout(0.5, 0.34), second)
    run_vadd(FeaturesAndHead(features, nn.Sequential(layer, third, nn.Linear(6, 3))))
    assert counts(first, second, third) == [3, 3, 3]


class Normalised(FeaturesAndHead):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x).tanh())


class HeadInTheFeatures(FeaturesAndHead):
    def forward_features(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x))
        return result

    def forward_head(self, h: Tensor) -> Tensor:
        return h + 0 * len(self.second)


@pytest.mark.parametrize("form", [Normalised, HeadInTheFeatures])
def test_a_model_that_only_looks_like_timms_form_runs_whole(form: type[FeaturesAndHead]) -> None:
    first, second, layer, third = pieces()
    run_vadd(form(nn.Sequential(first, second), nn.Sequential(layer, third, nn.Linear(6, 3))))
    assert counts(first, second, third) == [3, 3, 3]


def test_methods_under_and_upper_come_before_timms_form() -> None:
    class Both(FeaturesAndHead):
        def under(self, x: Tensor) -> Tensor:
            result: Tensor = self.first[0](x)
            return result

        def upper(self, h: Tensor) -> Tensor:
            return self.forward_head(self.first[1](h))

    first, second, layer, third = pieces()
    run_vadd(
        Both(nn.Sequential(nn.Sequential(first, nn.Linear(6, 6)), second), nn.Sequential(layer, third, nn.Linear(6, 3)))
    )
    assert counts(first, second, third) == [2, 3, 3]


def test_under_and_upper_may_be_submodules() -> None:
    class Named(nn.Module):
        def __init__(self, under: nn.Module, upper: nn.Module) -> None:
            super().__init__()
            self.under = under
            self.upper = upper

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.upper(self.under(x))
            return result

    first, second, layer, third = pieces()
    run_vadd(Named(nn.Sequential(first, nn.Linear(6, 6), second), nn.Sequential(layer, third, nn.Linear(6, 3))))
    assert counts(first, second, third) == [2, 2, 3]


def test_an_opaque_child_runs_whole_and_the_part_below_it_is_cut_off() -> None:
    first, second, layer, third = pieces()
    run_vadd(nn.Sequential(first, nn.Linear(6, 6), Opaque(second, layer), third, nn.Linear(6, 3)))
    assert counts(first, second, third) == [2, 3, 3]


def test_a_model_is_cut_in_front_of_its_first_layer() -> None:
    first, second, layer, third = pieces()
    run_vadd(
        nn.Sequential(first, layer, second, nn.Linear(6, 6), AdversarialDropout(0.5, 0.34), third, nn.Linear(6, 3))
    )
    assert counts(first, second, third) == [2, 3, 3]


def test_a_sequential_as_ordered_dict_is_cut() -> None:
    first, second, layer, third = pieces()
    parts = {"a": first, "b": second, "drop": layer, "c": third, "out": nn.Linear(6, 3)}
    run_vadd(nn.Sequential(OrderedDict(parts)))
    assert counts(first, second, third) == [2, 2, 3]


def test_a_subclass_of_sequential_with_another_forward_runs_whole() -> None:
    class Doubled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for module in self:
                x = module(x)
            return 2 * x

    first, second, layer, third = pieces()
    run_vadd(Doubled(first, second, layer, third, nn.Linear(6, 3)))
    assert counts(first, second, third) == [3, 3, 3]


def double_result(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, args, result: 2 * result)


def double_input(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def double_by_patch(model: nn.Module) -> None:
    original = cast(Callable[[Tensor], Tensor], model.forward)
    model.forward = lambda x: 2 * original(x)


@pytest.mark.parametrize("change", [double_result, double_input, double_by_patch])
@pytest.mark.parametrize("form", CUT)
def test_a_model_whose_call_does_more_than_its_forward_runs_whole(
    form: str, change: Callable[[nn.Module], None]
) -> None:
    net, opaque = build(form), build("opaque")
    x, _ = batch()
    change(net.model)
    change(opaque.model)
    torch.manual_seed(3)
    expected = VirtualAdversarialDropout()(opaque.model, x)
    torch.manual_seed(3)
    assert VirtualAdversarialDropout()(net.model, x).item() == expected.item()
    assert runs(net) == (3, 3)


def test_hooks_of_a_child_do_not_prevent_the_cut_and_run_with_it() -> None:
    net = build()
    calls = []
    net.stem.register_forward_hook(lambda *args: calls.append("stem"))
    net.head.register_forward_hook(lambda *args: calls.append("head"))
    VirtualAdversarialDropout()(net.model, batch()[0])
    assert runs(net) == (2, 3)
    assert calls == ["stem", "head", "stem", "head", "head"]


def test_hooks_of_an_inner_sequential_keep_that_one_whole() -> None:
    first, second, layer, third = pieces()
    inner = nn.Sequential(second, layer, third)
    inner.register_forward_hook(lambda *args: None)
    run_vadd(nn.Sequential(first, inner, nn.Linear(6, 3)))
    assert counts(first, second, third) == [2, 3, 3]


def test_pi_needs_no_layer_and_supervised_methods_ignore_a_target() -> None:
    x, y = batch()
    assert PiModel()(nn.Linear(6, 3).double(), x).item() == 0
    net = build()
    torch.manual_seed(3)
    expected = SupervisedAdversarialDropout()(net.model, x, y)
    torch.manual_seed(3)
    assert SupervisedAdversarialDropout()(net.model, x, y, target=torch.full((5, 3), 9.0)).item() == expected.item()
