"""Mixed precision with loss scaling on a GPU, against steps without scaling. Skipped without one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adversarial_dropout import AdversarialDropout

from .recording import METHODS, Recorder, batch

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

SEARCHING = ("vadd", "vadd-shared", "sadd", "at", "vat")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    below = nn.Sequential(nn.Linear(6, 10), nn.Softplus())
    above = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))
    return nn.Sequential(below, AdversarialDropout(0.5, 0.3), Recorder(), above).cuda()


def trained(method: str, dtype: torch.dtype, scale: float | None) -> tuple[list[Tensor], list[Tensor]]:
    """The masks and the weights of three steps."""
    model, regularizer = network(), METHODS[method]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=scale or 1.0, enabled=scale is not None)
    torch.manual_seed(2)
    for number in range(3):
        x, y = (tensor.cuda() for tensor in batch(8, seed=number))
        with torch.autocast("cuda", dtype):
            loss = F.cross_entropy(model(x.float()), y) + regularizer(model, x.float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    recorder = model[2]
    assert isinstance(recorder, Recorder)
    return [run.mask for run in recorder.runs], [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("method", SEARCHING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaling_the_loss_changes_neither_masks_nor_steps(dtype: torch.dtype, method: str) -> None:
    masks, weights = trained(method, dtype, None)
    for scale in (8.0, 1024.0):
        scaled_masks, scaled_weights = trained(method, dtype, scale)
        assert len(masks) == len(scaled_masks)
        assert all(map(torch.equal, masks, scaled_masks))
        torch.testing.assert_close(scaled_weights, weights, rtol=1e-3, atol=1e-3)
