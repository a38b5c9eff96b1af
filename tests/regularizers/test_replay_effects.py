"""What a step with recorded outputs leaves behind, where a whole one would differ or a test needs its own model."""

import contextlib
import copy
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from adversarial_dropout import AdversarialDropout, SupervisedAdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.regularizers.search import Search

from .own_containers import own_model
from .own_models import WIDTH, Catching, Own
from .recording import Opaque, Recorder, assert_same, batch, build, in_form
from .test_buffers_and_gradients import NORMS, buffers, old_spectral_norm
from .test_replay import (
    EACH_STEP,
    SHARED,
    STEPS,
    Step,
    assert_equals_whole,
    results,
    runs,
    sadd,
    vadd,
    vadd_shared,
    whole_passes,
)

pytestmark = pytest.mark.filterwarnings("ignore:the search pass repeats the target pass")


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm is not old_spectral_norm])  # It works by a hook.
@EACH_STEP
def test_state_below_the_layer_changes_as_in_a_cut_model(norm: Callable[[], nn.Module], step: Step) -> None:
    """Power iterations move the weights with each pass, so loss and gradients depend on their number."""
    models = []
    for form in ("sequential", "opaque"):
        torch.manual_seed(0)
        under = [nn.Linear(6, 10), norm(), nn.Softplus(), nn.Dropout(0.2)]
        upper = [AdversarialDropout(0.5, 0.3), nn.Linear(10, 10), norm(), nn.Linear(10, 3)]
        models.append(in_form(form, under, upper).double())
    x, y = batch(8)
    for seed in (5, 6):
        (loss, gradients, state, drawn), (other_loss, other_gradients, other_state, other_drawn) = (
            results(model, step, x, y, whole=False, seed=seed) for model in models
        )
        assert torch.equal(loss, other_loss)
        assert_same(gradients, other_gradients)
        assert_same(list(state.values()), list(other_state.values()))
        assert all(map(torch.equal, drawn, other_drawn))


@pytest.mark.parametrize("step", [vadd_shared, vadd, sadd])
def test_the_first_step_counts_as_the_next_ones(step: Step) -> None:
    """Although it learns that one output is changed in place, and that modules return unknown types."""
    for name, norm in (("in-place stem", "norm"), ("unknown types", "first.inner.1")):
        model = own_model(name)
        counts = []
        for _ in range(3):
            step(model, *batch(8))
            counts.append(int(model.get_buffer(f"{norm}.num_batches_tracked")))
        expected = STEPS[step][0]
        assert counts == [expected, 2 * expected, 3 * expected]


@EACH_STEP
def test_autocast(step: Step) -> None:
    torch.manual_seed(0)
    model = own_model("functions between").float()
    x, y = batch(8)
    x = x.float()
    values = []
    for whole in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            values.append(results(copy.deepcopy(model), step, x, y, whole=whole))
    assert torch.equal(values[0][0], values[1][0])
    for gradient, expected in zip(values[0][1], values[1][1], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0.05, atol=2e-3)  # Sums of bfloat16 in another order.


@EACH_STEP
def test_without_gradients(step: Step) -> None:
    x, y = batch(8)
    model = own_model("in-place stem")
    with torch.no_grad():
        torch.manual_seed(3)
        value = step(copy.deepcopy(model), x, y)
        torch.manual_seed(3)
        assert step(copy.deepcopy(model), x, y) == value
        step(model, x, y)
        assert runs(model, step, x, y) == STEPS[step][0]


def bert() -> tuple[Any, dict[str, Tensor], list[int]]:
    """A small BERT with the layer in place of its last dropout, a batch, and a list that grows with each run of it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).double().train()
    model.dropout = AdversarialDropout(0.5, 0.2)
    first = model.bert.encoder.layer[0].attention.self.query
    forward, calls = first.forward, []

    def counted(h: Tensor) -> Tensor:
        calls.append(1)
        result: Tensor = forward(h)
        return result

    first.forward = counted
    ids = torch.randint(1, 30, (4, 6))
    return model, {"input_ids": ids, "attention_mask": ids > 2, "labels": torch.randint(3, (4,))}, calls


@EACH_STEP
def test_a_bert_of_transformers(step: Step) -> None:
    model, given, calls = bert()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.inner(input_ids=ids, attention_mask=ids > 2).logits
            return logits

    (loss, gradients, _, drawn), (other, expected, _, other_drawn) = (
        results(Logits(), step, given["input_ids"], given["labels"], whole=whole) for whole in (False, True)
    )
    assert torch.equal(loss, other)
    assert_same(gradients, expected)
    assert all(map(torch.equal, drawn, other_drawn))
    assert len(calls) == sum(STEPS[step])


@pytest.mark.parametrize(("noise", "runs_below"), [("shared", 1), ("independent", 2)])
def test_with_output_returns_all_that_a_model_returns(noise: Any, runs_below: int) -> None:
    values = []
    for whole in (False, True):
        model, given, calls = bert()
        vadd = VirtualAdversarialDropout(noise=noise)
        torch.manual_seed(3)
        with whole_passes() if whole else contextlib.nullcontext():
            output, term = vadd.with_output(model, given)
        assert torch.equal(output.loss, F.cross_entropy(output.logits, given["labels"]))
        loss = output.loss + term
        values.append([loss, *torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)])
        assert len(calls) == (3 if whole else runs_below)
    assert torch.equal(values[0][0], values[1][0])
    assert_same(values[0], values[1])


@pytest.mark.parametrize("step", [vadd_shared, vadd, sadd])
def test_a_batch_of_several_inputs(step: Step) -> None:
    """A tuple for ``model(*x)`` or a mapping for ``model(**x)``."""

    class Several(Own):
        def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Any:  # type: ignore[override]
            return {"logits": super().forward(a + scale * b), "other": a}

    x, y = batch(8)

    def value(given: Any, whole: bool) -> tuple[Tensor, list[Tensor], int]:
        torch.manual_seed(0)
        model = Several().double()
        first: Any = model.get_submodule("first.0")
        with whole_passes() if whole else contextlib.nullcontext():
            if step in SHARED:
                term = VirtualAdversarialDropout(noise="shared")(model, given)
            elif step is sadd:
                term = SupervisedAdversarialDropout()(model, given, y)
            else:
                term = VirtualAdversarialDropout()(model, given)
        return term, list(torch.autograd.grad(term, list(model.parameters()))), first.runs

    for given in ((x, x + 1), {"a": x, "b": x + 1}, {"a": x, "b": x + 1, "scale": 0.5}):
        (term, gradients, fewer), (expected, others, more) = (value(given, whole) for whole in (False, True))
        assert torch.equal(term, expected)
        assert_same(gradients, others)
        assert (fewer, more) == ((1, 3) if step in SHARED else (1, 2) if step is sadd else (2, 3))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(vadd_shared, [True, False, True]), (vadd, [True, True, False, True]), (sadd, [True, False, True])],
)
def test_only_the_search_gets_outputs_without_their_graph(step: Step, expected: list[bool]) -> None:
    graphs = []

    class Watching(Own):
        def features(self, x: Tensor) -> Tensor:
            h = super().features(x)
            graphs.append(h.requires_grad)
            return h

    step(Watching().double(), *batch(8))
    assert graphs == expected


def test_signatures_are_kept_in_a_pass() -> None:
    class Inspecting(Own):
        def features(self, x: Tensor) -> Tensor:
            assert list(inspect.signature(self.first.forward).parameters) == ["input"]
            return super().features(x)

    vadd_shared(Inspecting().double(), *batch(8))


def test_a_model_keeps_nothing_of_a_pass() -> None:
    model = own_model("in-place stem")
    mine = model.blocks[0].forward
    model.blocks[0].forward = mine
    activations: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = x + 1
            activations.append(weakref.ref(out))
            return out

    model.first = nn.Sequential(model.first, Watched())
    vadd_shared(model, *batch(8)).backward()  # type: ignore[no-untyped-call]
    assert [module for module in model.modules() if "forward" in vars(module)] == [model.blocks[0]]
    assert model.blocks[0].forward is mine
    gc.collect()
    assert [activation() for activation in activations] == [None] * len(activations)


def test_a_pass_that_ends_at_a_layer_leaves_blocks_and_contexts() -> None:
    model = own_model("catching")
    assert isinstance(model, Catching)
    vadd(model, *batch(8))
    assert model.entered == model.left == 4


def test_a_recording_is_for_one_input_one_noise_and_one_pass_beside_searches() -> None:
    first = Recorder(0.1)
    model = Opaque(nn.Linear(6, 10), first, AdversarialDropout(0.5, 0.3), nn.Linear(10, 3)).double()
    x, other = batch(8)[0], batch(8, seed=2)[0]

    def passes(change: Callable[[], object], h: Tensor) -> int:
        search = Search(model, x)
        search.base_pass(x, repeat_noise=True)
        change()
        first.runs.clear()
        search.adversarial_pass(h)
        return len(first.runs)

    assert passes(lambda: None, x) == 0
    assert passes(lambda: torch.rand(1), x) == 1
    assert passes(lambda: None, other) == 1
    search = Search(model, x)
    search.base_pass(x, repeat_noise=True)
    first.runs.clear()
    one, two = search.adversarial_pass(x), search.adversarial_pass(x)
    assert len(first.runs) == 1
    assert not torch.equal(one, two)


@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize("form", ["sequential", "methods", "opaque"])
def test_with_output_returns_the_target_pass_and_the_term(form: str, noise: Any) -> None:
    x, y = batch(8)
    net = build(form, std=0.1)
    vadd = VirtualAdversarialDropout(noise=noise)
    torch.manual_seed(3)
    expected = vadd(net.model, x)
    torch.manual_seed(3)
    net.above.runs.clear()
    output, term = vadd.with_output(net.model, x)
    assert torch.equal(term, expected)
    target = net.above.runs[0]
    assert_same(output, net.logits(target.seen, target.noise))
    (F.cross_entropy(output, y) + term).backward()  # type: ignore[no-untyped-call]
    # The masks of the target pass count as those of the last forward.
    net.layer.delta = 0.0
    SupervisedAdversarialDropout()(net.model, x, y, target=output)
    assert torch.equal(net.above.runs[-1].mask, target.mask)
    assert vadd._searches is None


def test_parametrized_weights_below_the_layer() -> None:
    torch.manual_seed(0)
    model = Own(nn.Sequential(parametrizations.weight_norm(nn.Linear(6, WIDTH)), nn.Tanh())).double()
    for step in STEPS:
        assert_equals_whole(model, step, *batch(8))
    assert buffers(model)
