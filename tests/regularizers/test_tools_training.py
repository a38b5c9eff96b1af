"""Loss scaling, activation checkpoints, averaged models, wrappers, and copies in the midst of a step."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from adversarial_dropout import AdversarialDropout, VirtualAdversarialDropout
from adversarial_dropout.errors import AdversarialDropoutError, InvalidTypeError

from .recording import METHODS, Opaque, Recorder, batch

SEARCHING = ("vadd", "vadd-shared", "sadd", "at", "vat")


def network(p: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    below = nn.Sequential(nn.Linear(6, 10), nn.Softplus())
    above = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))
    return nn.Sequential(below, AdversarialDropout(p, 0.3), Recorder(), above)


# Mixed precision


@pytest.mark.parametrize("method", SEARCHING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaling_the_loss_changes_neither_masks_nor_steps(dtype: torch.dtype, method: str) -> None:
    """Three steps with ``GradScaler`` at two scales, against steps without it."""

    def trained(scale: float | None) -> tuple[list[Tensor], list[Tensor]]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        regularizer = METHODS[method]()
        torch.manual_seed(2)
        for number in range(3):
            x, y = batch(8, seed=number)
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(x.float()), y) + regularizer(model, x.float(), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        recorder = model[2]
        assert isinstance(recorder, Recorder)
        return [run.mask for run in recorder.runs], [parameter.detach() for parameter in model.parameters()]

    masks, weights = trained(None)
    for scale in (8.0, 1024.0):
        scaled_masks, scaled_weights = trained(scale)
        assert len(masks) == len(scaled_masks)
        assert all(map(torch.equal, masks, scaled_masks))
        torch.testing.assert_close(scaled_weights, weights, rtol=1e-3, atol=1e-4)
    moved = [(end - start).norm() for end, start in zip(weights, network().parameters(), strict=True)]
    assert max(moved) > 1e-2, "a skipped step"


# Activation checkpoints


class Checkpointed(nn.Module):
    def __init__(self, part: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.part = part
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.part, x, use_reentrant=self.reentrant)
        return result


def checkpointed(where: str, reentrant: bool | None) -> nn.Sequential:
    """Without reentrancy given, no checkpoint."""
    torch.manual_seed(0)
    below: nn.Module = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.2), nn.Tanh())
    above: nn.Module = nn.Sequential(nn.Linear(10, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
    layer: nn.Module = AdversarialDropout(0.5, 0.3)
    if reentrant is not None:
        below = Checkpointed(below, reentrant) if "below" in where else below
        above = Checkpointed(above, reentrant) if "above" in where else above
        layer = Checkpointed(layer, reentrant) if "around" in where else layer
    return nn.Sequential(below, layer, above).double()


@pytest.mark.parametrize(
    ("where", "reentrant", "methods"),
    [("below and above", False, (*SEARCHING, "pi")), ("below", True, ("vadd", "vadd-shared", "sadd", "pi"))],
)
def test_checkpoints_below_and_above_the_layer(where: str, reentrant: bool, methods: tuple[str, ...]) -> None:
    for method in methods:
        results = []
        for mode in (None, reentrant):
            model = checkpointed(where, mode)
            x, y = batch(8)
            torch.manual_seed(1)
            loss = METHODS[method]()(model, x.requires_grad_(), y)
            loss.backward()  # A reentrant checkpoint supports no autograd.grad.
            gradients = [parameter.grad for parameter in model.parameters()]
            results.append([loss.detach(), x.grad, *gradients, torch.rand(3)])
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_reentrant_checkpoints_above_or_around_the_layer_are_refused(method: str) -> None:
    x, y = batch(8)
    for where, message in (("above", "give the checkpoint use_reentrant=False"), ("around", "leave the layer out of")):
        model = checkpointed(where, True)
        with pytest.raises(AdversarialDropoutError, match=message):
            METHODS[method]()(model, x, y)
        model(x.requires_grad_()).sum().backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("method", ["at", "vat"])
def test_a_gradient_in_x_through_a_reentrant_checkpoint_is_refused(method: str) -> None:
    with pytest.raises(AdversarialDropoutError, match="give the checkpoint use_reentrant=False"):
        METHODS[method]()(checkpointed("below", True), *batch(8))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["vadd", "vadd-shared", "sadd"])
def test_gradient_checkpointing_of_transformers(method: str) -> None:
    transformers = pytest.importorskip("transformers")

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **sizes)
            self.bert = transformers.BertForSequenceClassification(config)
            self.bert.dropout = AdversarialDropout(0.1, 0.2)

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.bert(input_ids=ids, use_cache=False).logits
            return logits

    ids, y = torch.randint(50, (8, 7)), torch.randint(3, (8,))
    results = []
    for reentrant in (None, False):
        model = Bert().train()
        if reentrant is not None:
            model.bert.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(1)
        loss = METHODS[method]()(model, ids, y)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert results[0][0] > 0
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-8)
    model.bert.bert.encoder.layer[1].output.dropout = AdversarialDropout(0.1, 0.2)
    with pytest.raises(AdversarialDropoutError, match="leave the layer out of that part"):
        METHODS[method]()(model, ids, y)


# Averaged models, wrappers, copies


def test_an_averaged_model_gives_the_target() -> None:
    model, (x, _) = network().double(), batch(8)
    teacher = AveragedModel(model)
    states = []
    for shift in (0.0, 0.1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift)
        model(x)
        teacher.update_parameters(model)
        states.append(copy.deepcopy(dict(model.named_parameters())))
    teacher.eval()
    by_hand = {name: (states[0][name] + states[1][name]).detach() / 2 for name in states[0]}
    plain = copy.deepcopy(teacher.module)
    values = []
    for target in (teacher(x), torch.func.functional_call(plain, by_hand, (x,))):
        torch.manual_seed(1)
        model(x)
        loss = VirtualAdversarialDropout(detach_target=True)(model, x, target=target)
        values.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert values[0][0] > 0
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("method", SEARCHING)
def test_data_parallel_on_one_device_runs_and_on_two_is_refused(method: str) -> None:
    x, y = batch(8)
    model = network().double()
    losses = []
    for wrapped in (Opaque(model), nn.DataParallel(model)):
        torch.manual_seed(1)
        losses.append(METHODS[method]()(wrapped, x, y).item())
    assert losses[0] == losses[1] > 0
    wrapped.device_ids = [0, 1]
    with pytest.raises(InvalidTypeError, match=r"got nn.DataParallel on 2 devices.*; use DistributedDataParallel"):
        METHODS[method]()(wrapped, x, y)


def saved(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded


@pytest.mark.parametrize("how", [copy.deepcopy, saved])
def test_a_copy_in_the_midst_of_a_step(how: Callable[[nn.Module], nn.Module]) -> None:
    """The step goes on as without the copy, and the copy is a model of its own."""
    x, y = batch(8)
    results = []
    for copies in (False, True):
        model = network().double()
        model[2] = nn.Identity()
        torch.manual_seed(1)
        out = model(x)
        twin = how(model) if copies else None
        loss = F.cross_entropy(out, y) + VirtualAdversarialDropout()(model, x, target=out)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(map(torch.equal, *results))
    assert twin is not None
    VirtualAdversarialDropout()(twin, x).backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
