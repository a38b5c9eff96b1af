"""``replace_dropout``: which layers it takes, what it keeps of them, what it refuses."""

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adversarial_dropout import AdversarialDropout, AdversarialDropoutError, VirtualAdversarialDropout, replace_dropout
from adversarial_dropout.errors import InvalidTypeError, InvalidValueError


def block(size: int) -> nn.Sequential:
    parts = [("linear", nn.Linear(size, size)), ("act", nn.Tanh()), ("dropout", nn.Dropout(0.3))]
    return nn.Sequential(OrderedDict(parts))


class Classifier(nn.Module):
    """Dropout in a list, a dictionary, a sequential and at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(8) for _ in range(3))
        self.views = nn.ModuleDict({"a": nn.Dropout(0.2)})
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.classifier(self.dropout(self.views["a"](x)))
        return out


IN_LAYERS = [f"layers.{i}.dropout" for i in range(3)]
ALL = [*IN_LAYERS, "views.a", "dropout"]


def adversarial(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, AdversarialDropout)]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("dropout", ["dropout"]),
        ("layers.1.dropout", ["layers.1.dropout"]),
        ("layers.*", IN_LAYERS),
        ("layers.[01].dropout", IN_LAYERS[:2]),
        ("*.dropout", IN_LAYERS),
        ("*", ALL),
        (re.compile(r"^layers\.[12]"), IN_LAYERS[1:]),
        (re.compile("^dropout$"), ["dropout"]),
        (nn.Dropout, ALL),
        (nn.Module, ALL),
        (lambda name, layer: layer.p < 0.4 and name != "views.a", IN_LAYERS),
    ],
)
def test_what_matches_is_replaced_in_place_and_named(match: Any, expected: list[str]) -> None:
    model = Classifier()
    order = [name for name, _ in model.named_modules()]
    others = {name: module for name, module in model.named_modules() if name not in expected}
    assert replace_dropout(model, match) == expected
    assert adversarial(model) == expected
    assert [name for name, _ in model.named_modules()] == order
    assert all(model.get_submodule(name) is module for name, module in others.items())


def test_without_a_match_the_only_dropout_is_replaced() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2))
    assert replace_dropout(model) == ["1"]
    assert repr(model[1]) == "AdversarialDropout(p=0.1, delta=0.05, granularity=element, rescale=inverted)"


def test_settings_are_kept_or_given() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.2), nn.Dropout1d(0.3), nn.Dropout3d(0.4))
    model[3].eval()
    replace_dropout(model, "*")
    kept = [(layer.p, layer.granularity) for layer in model if isinstance(layer, AdversarialDropout)]
    assert kept == [(0.1, "element"), (0.2, "channel"), (0.3, "channel"), (0.4, "channel")]
    assert [layer.training for layer in model] == [True, True, True, False]
    replace_dropout(model, "[01]", p=0.6, delta=0.2, granularity="feature", rescale="sum", batch_dim=1)
    given = "AdversarialDropout(p=0.6, delta=0.2, granularity=feature, rescale=sum, batch_dim=1)"
    assert [repr(model[0]), repr(model[1])] == [given, given]
    replace_dropout(model, "0", delta=0.3)
    assert repr(model[0]) == "AdversarialDropout(p=0.6, delta=0.3, granularity=feature, rescale=inverted)"


@pytest.mark.parametrize("training", [True, False])
def test_until_a_search_the_model_computes_the_same(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Dropout2d(0.4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 3))
    model.train(training)
    changed = copy.deepcopy(model)
    parameters = list(changed.parameters())
    replace_dropout(changed, "*")
    assert all(a is b for a, b in zip(parameters, changed.parameters(), strict=True))
    changed.load_state_dict(model.state_dict())
    x, outputs = torch.randn(6, 2, 4, 4), []
    for each in (model, changed):
        torch.manual_seed(4)
        out = each(x)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), list(each.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_a_layer_with_two_names_stays_one_layer() -> None:
    shared = nn.Dropout(0.3)
    model = nn.Module()
    model.first = nn.Sequential(nn.Linear(2, 2), shared)
    model.second = shared
    model.third = nn.Dropout(0.3)
    assert replace_dropout(model, "second") == ["first.1", "second"]
    assert isinstance(model.second, AdversarialDropout)
    assert model.first[1] is model.second
    assert type(model.third) is nn.Dropout


def test_a_parent_with_two_names() -> None:
    inner = block(4)
    model = nn.ModuleDict({"a": inner, "b": inner})
    assert replace_dropout(model) == ["a.dropout", "b.dropout"]
    assert isinstance(inner.dropout, AdversarialDropout)


def test_several_layers_are_searched_by_one_gradient_with_a_budget_each() -> None:
    model = Classifier().double()
    model.layers[0] = nn.Identity()  # Three layers are left in the search.
    names = replace_dropout(model, "*", p=0.0, delta=0.3)
    layers = [model.get_submodule(name) for name in names]
    x, target = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    values = VirtualAdversarialDropout(reduction="none")(model, x, target=target)

    def output(*masks: Tensor) -> Tensor:
        h = x
        for mask, each in zip(masks[:2], list(model.layers)[1:], strict=True):
            h = torch.tanh(each.get_submodule("linear")(h)) * mask
        return torch.nn.functional.linear(h * masks[2] * masks[3], model.classifier.weight, model.classifier.bias)

    def kl(prediction: Tensor) -> Tensor:
        t = target.softmax(dim=1)
        return (t * (t / prediction.softmax(dim=1)).log()).sum(dim=1)

    ones = [torch.ones(5, 8, dtype=torch.float64, requires_grad=True) for _ in layers]
    slopes = torch.autograd.grad(kl(output(*ones)).sum(), ones)
    masks = []
    for slope in slopes:
        mask = torch.ones(5, 8, dtype=torch.float64)
        for row, gains in zip(mask, (-slope).tolist(), strict=True):
            best = sorted(range(8), key=gains.__getitem__, reverse=True)[:2]
            for unit in best:
                row[unit] = float(gains[unit] <= 0)
        masks.append(mask)
    expected = kl(output(*masks))
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(values.sum(), parameters), torch.autograd.grad(expected.sum(), parameters)
    )


def test_the_dropout_of_a_transformer_layer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.1, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))
    assert replace_dropout(model, "0.dropout?", delta=0.25, granularity="feature") == ["0.dropout1", "0.dropout2"]
    loss = VirtualAdversarialDropout()(model, torch.randn(4, 3, 8))
    assert loss > 0


# What is refused


class Loud(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].register_forward_hook(lambda *given: None)
    return model


def compiled_in_place() -> nn.Module:
    model = Classifier()
    model.classifier.compile(backend="eager")
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script: nn.Module = torch.jit.script(nn.Sequential(nn.Dropout()))
        return script


@pytest.mark.parametrize(
    ("make", "match", "message"),
    [
        (
            Classifier,
            None,
            r"expected match, because .* several dropout layers: layers\.\*\.dropout \(3\), views\.a, dropout "
            r'\(last: dropout\)\. The last one is the usual choice, match="dropout"; match="\*" replaces all',
        ),
        (
            Classifier,
            "layer.1.dropout",
            r"layer of the Classifier, but 'layer\.1\.dropout' selects none; did you mean 'layers\.1\.dropout' or .*\. "
            r"Its dropout layers: layers\.\*\.dropout \(3\), views\.a, dropout \(last: dropout\)$",
        ),
        (Classifier, "encoder.*.drop", r"'encoder\.\*\.drop' selects none"),
        (Classifier, re.compile("^Drop"), r"re\.compile\('\^Drop'\) selects none"),
        (Classifier, nn.Dropout2d, "class 'torch.nn.modules.dropout.Dropout2d'> selects none"),
        (Classifier, lambda name, layer: False, "selects none"),
        (
            Classifier,
            "classifier",
            r'expected the name of a dropout layer, but "classifier" is a Linear; Its dropout',
        ),
        (Classifier, "layers", r'"layers" is a ModuleList; match="layers\.\*" replaces the dropout layers in it'),
        (
            Classifier,
            nn.Linear,
            r"class of a dropout layer \(Dropout, .*\), got Linear; put an AdversarialDropout in",
        ),
        (lambda: nn.Sequential(nn.AlphaDropout()), nn.AlphaDropout, "got AlphaDropout"),
        (lambda: nn.Sequential(nn.AlphaDropout()), "0", r'"0" is a AlphaDropout; It has no dropout layer$'),
        (lambda: nn.Sequential(nn.Linear(2, 2)), None, "None selects none. It has no dropout layer$"),
        (nn.Dropout, None, r"contains dropout layers, got a Dropout itself; use AdversarialDropout\(p, delta\)"),
        (
            lambda: nn.ModuleDict({"rnn": nn.LSTM(2, 2, 2, dropout=0.3)}),
            "rnn",
            r'"rnn" is a LSTM \(LSTM drops units inside a function, which cannot be replaced\)',
        ),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, dropout=0.1),
            "self_attn.dropout",
            r"selects none.*dropout2 \(last: dropout2\) \(MultiheadAttention drops units inside a function",
        ),
        (lambda: nn.Sequential(Loud()), "*", r'"0" is a Loud with a forward of its own, .*set_submodule\("0", Advers'),
        (hooked, "1", '"1" has hooks, which would be lost; register them after'),
        (compiled_in_place, "dropout", "not compiled yet; call replace_dropout before torch.compile"),
        (lambda: torch.compile(Classifier(), backend="eager"), "dropout", "not compiled yet"),
        (
            lambda: nn.Sequential(scripted()),
            "*",
            "no dropout layer; those inside TorchScript cannot be replaced",
        ),
    ],
)
def test_invalid_matches(make: Callable[[], nn.Module], match: Any, message: str) -> None:
    model = make()
    with pytest.raises(InvalidValueError, match=message):
        replace_dropout(model, match)
    assert not adversarial(model)


@pytest.mark.parametrize(
    ("make", "match", "message"),
    [
        (lambda: [nn.Dropout()], None, "expected a torch.nn.Module as model, got list"),
        (Classifier, ["dropout"], r"to be a name, a pattern, .* got \['dropout'\] \(list\); for several names"),
        (scripted, None, "got TorchScript, whose layers are fixed"),
    ],
)
def test_invalid_types(make: Callable[[], Any], match: Any, message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        replace_dropout(make(), match)


def test_nothing_is_replaced_if_one_layer_cannot_be() -> None:
    model = nn.Sequential(nn.Dropout(), Loud())
    with pytest.raises(InvalidValueError, match='"1" is a Loud'):
        replace_dropout(model, "*")
    with pytest.raises(AdversarialDropoutError, match="expected delta to be in"):
        replace_dropout(model, "0", delta=2)
    assert not adversarial(model)


def test_the_pretrained_form_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    with pytest.raises(InvalidValueError, match=r'encoder\.layer\.\*\.\S* \(2\), .*usual choice, match="dropout"'):
        replace_dropout(model)
    assert replace_dropout(model, "dropout") == ["dropout"]
