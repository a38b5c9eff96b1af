"""Mean Teacher: agreement with the running average of the network's own weights."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from adversarial_dropout.divergences import Divergence
from adversarial_dropout.errors import AdversarialDropoutWarning, InvalidTypeError, InvalidValueError, check_fraction
from adversarial_dropout.regularizers.base import Reduction, Regularizer
from adversarial_dropout.regularizers.model_io import Inputs, Output


class MeanTeacher(Regularizer):
    r"""Mean Teacher (Tarvainen & Valpola, NeurIPS 2017), its consistency cost and its moving average:

    .. math:: D[f_{\theta'}(x, \xi'),\; f_\theta(x, \xi)], \qquad
        \theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t)\, \theta_t, \qquad
        \alpha_t = \min\!\big(\alpha,\; 1 - \tfrac{1}{t + 1}\big)

    with the model's weights θ after t steps and the teacher's θ', a copy of the model kept here as ``reg.teacher``. ξ
    is all noise of a pass; no gradient flows into the teacher. The bound on α is that of the authors' code: the first
    averages are plain means. As there, only parameters are averaged: the teacher's BatchNorm statistics come from its
    own passes. (An ``AveragedModel`` of ``torch.optim.swa_utils`` copies or averages those of the model. It can be a
    teacher too: give its output as the ``target`` of another regulariser.) The authors predict with the teacher.

    Args:
        model: The model that is trained, on its device; it is copied.
        decay: α, in [0, 1]. It may be changed during training, e.g. from 0.99 to 0.999 as in the paper.
        divergence: ``"qe"`` as published, another name, or a function ``(target, prediction) -> (N,)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: Which part of what the model returns is the prediction: a name, an index or a function; by default the
            tensor that it returns, or its ``logits``.
        class_dim: Dimension of the classes where logits have positions: 1 for (N, C, H, W), -1 for (N, T, C).

    Call:
        ``reg(model, x, *, target=None)``: ``x`` is the teacher's input; ``target`` is ``model(x)``, or the model's
        output for another view of x, if it has been computed already. After each step of the optimiser,
        ``reg.update(model)``. Returns a scalar, or shape (N,). ``reg.state_dict()`` holds the teacher and t.

    Training and evaluation:
        The teacher's modules are in the mode of the model's, so in training its pass has noise, as published. The
        model's pass, if there is one, runs in its mode and updates BatchNorm as usual.

    Raises:
        InvalidTypeError, InvalidValueError: a setting or the model's output is invalid; the model has lazy parameters;
            ``update`` gets a model with other parameters.

    Warns:
        AdversarialDropoutWarning: parameters in half precision, where an average with α near 1 does not move.

    Example:
        >>> teacher = MeanTeacher(model)
        >>> loss = F.cross_entropy(model(x), y) + lam * teacher(model, x_unlabelled)
        >>> loss.backward()
        >>> optimizer.step()
        >>> teacher.update(model)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float = 0.999,
        divergence: str | Divergence = "qe",
        reduction: Reduction = "mean",
        output: Output = None,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(divergence=divergence, reduction=reduction, output=output, class_dim=class_dim)
        check_fraction("decay", decay)
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"expected a torch.nn.Module as model, got {type(model).__name__}")
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            raise InvalidValueError("expected initialised parameters to copy, got lazy ones; run the model once before")
        if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
            warnings.warn(
                f"an average of half-precision parameters with decay={decay} loses its small steps to rounding; keep "
                f"the parameters in float32 and use autocast",
                AdversarialDropoutWarning,
                stacklevel=2,
            )
        self.decay = decay
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.teacher.zero_grad(set_to_none=True)
        self._updates = 0

    def per_example(
        self, model: nn.Module, x: Inputs, y: Tensor | None, target: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        # From the end, because a wrapper such as DistributedDataParallel only puts modules in front.
        pairs = zip(reversed(list(self.teacher.modules())), reversed(list(model.modules())), strict=False)
        for module, of_model in pairs:
            module.training = of_model.training
        with torch.no_grad():
            goal = self.run(self.teacher, x)
        return self._divergence(goal, self.run(model, x) if target is None else target, mask)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the teacher's parameters towards those of ``model``; call it after each step of the optimiser."""
        theirs, own = list(model.parameters()), list(self.teacher.parameters())
        if [each.shape for each in theirs] != [each.shape for each in own]:
            raise InvalidValueError(
                f"expected the model that was copied, got one with other parameters: {len(theirs)} tensors, "
                f"{sum(each.numel() for each in theirs)} numbers, instead of {len(own)} and "
                f"{sum(each.numel() for each in own)}; make a new MeanTeacher if the model has changed"
            )
        self._updates += 1
        share = 1 - min(self.decay, 1 - 1 / (self._updates + 1))
        for average, newest in zip(own, theirs, strict=True):
            average.lerp_(newest.to(average), share)

    def get_extra_state(self) -> dict[str, int]:
        """t, for ``state_dict``."""
        return {"updates": self._updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take t from a ``state_dict``."""
        self._updates = state["updates"]
