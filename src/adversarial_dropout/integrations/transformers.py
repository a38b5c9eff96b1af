"""The terms of regularisers in the loss of ``transformers.Trainer``."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from accelerate.utils import convert_to_fp32, find_batch_size
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_MODELS

from adversarial_dropout.errors import InvalidValueError, check_at_least
from adversarial_dropout.integrations.shuffled_rows import ShuffledRows
from adversarial_dropout.integrations.weighted_terms import Weight, checked_terms, checked_weight
from adversarial_dropout.regularizers.base import UNLABELLED, Regularizer
from adversarial_dropout.regularizers.entropy_minimization import EntropyMinimization
from adversarial_dropout.regularizers.pi_model import PiModel
from adversarial_dropout.regularizers.supervised_adversarial_dropout import SupervisedAdversarialDropout
from adversarial_dropout.regularizers.virtual_adversarial_dropout import VirtualAdversarialDropout

IGNORED = -100
"""The label that Transformers leaves out of its losses."""

_TAKE_THE_FORWARD = (EntropyMinimization, PiModel, SupervisedAdversarialDropout, VirtualAdversarialDropout)
"""Regularisers whose ``target=`` may be the forward pass of the loss."""


class AdversarialDropoutMixin(Trainer):
    r"""Mixin for ``transformers.Trainer`` that adds the terms of regularisers to the training loss:

    .. math:: \frac{1}{m} \sum_{items} \ell + \sum_j \lambda_j \frac{1}{n_j} \sum_{rows} R_j

    The m labelled items and the n_j rows are those of all batches that one step of the optimiser accumulates, on all
    processes, so the gradient does not depend on how the rows of a step are split into batches. This also holds for the
    loss of models that accept ``num_items_in_batch`` but do not use it, such as ``BertForSequenceClassification``.

    Args:
        regularizer: A regulariser with ``reduction="mean"``, or a sequence of pairs ``(weight, regularizer)``.
        weight: λ of a single regulariser: a number, 0 or more, or a function from the share of the training that is
            done, in [0, 1), to a number. ``None``: 1.
        unlabelled_dataset: Rows without labels, with a length. Unsupervised regularisers then run on rows of it instead
            of the rows of the batch; labels in it are ignored. The same ``data_collator`` makes its batches.
        unlabelled_batch_size: Rows of ``unlabelled_dataset`` beside each batch on each device. ``None``: the size of
            the training batches.
        **kwargs: Those of ``Trainer``, which may also be positional.

    Labels:
        Integer labels -1 and -100 mean "unlabelled". Such rows or tokens count neither in the loss nor in supervised
        regularisers. A regulariser with ``class_dim=`` gets the batch's ``attention_mask`` as its ``mask=``.

    Training and evaluation:
        The terms are added in training only, so ``eval_loss`` has none. Each appears without its weight in the log,
        under the name of its class; ``loss`` there includes the weighted terms. On the rows of the batch, adversarial
        dropout, Π and entropy minimisation share the first pass with the loss. Rows of ``unlabelled_dataset`` depend on
        the seed and the step only, so a resumed training sees the same ones. There may be several processes, with
        ``DistributedDataParallel``, and mixed precision.

    Raises:
        InvalidTypeError, InvalidValueError: an argument has another form, a supervised regulariser gets no labels or
            those of a causal language model, or training runs under FSDP or DeepSpeed.

    Example:
        >>> class MyTrainer(AdversarialDropoutMixin, Trainer): ...
        >>> model.dropout = AdversarialDropout(p=0.1, delta=0.05)
        >>> trainer = MyTrainer(model, arguments, train_dataset=rows, regularizer=VirtualAdversarialDropout())
    """

    def __init__(
        self,
        *args: Any,
        regularizer: Regularizer | Sequence[tuple[Weight, Regularizer]],
        weight: Weight | None = None,
        unlabelled_dataset: Any = None,
        unlabelled_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.terms = checked_terms(regularizer, weight)
        if unlabelled_batch_size is not None:
            check_at_least("unlabelled_batch_size", unlabelled_batch_size, 1)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InvalidValueError(
                "expected one process or DistributedDataParallel, got FSDP or DeepSpeed, which keep the parameters in "
                "parts between the passes of a regulariser; train without them"
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._unlabelled = None if unlabelled_dataset is None else ShuffledRows(unlabelled_dataset, seed)
        self.unlabelled_batch_size = unlabelled_batch_size
        self._totals: list[float] | None = None
        self._batch_of_step = 0
        self._sums = {name: torch.zeros((), device=self.args.device) for name in self.terms}
        self._steps_since_log = 0
        self._causal = type(self.accelerator.unwrap_model(self.model)).__name__ in CAUSAL_MODELS.values()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, items = super().get_batch_samples(map(_ignoring, epoch_iterator), num_batches, device)
        counts = torch.tensor([self._counts(batch) for batch in batches] or [(0, 0, 0)], dtype=torch.float64).sum(dim=0)
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts.float().to(device), reduction="mean")
        self._totals = counts.tolist()
        self._batch_of_step = 0
        self._steps_since_log += 1
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = _ignoring(inputs)
        counts = self._counts(inputs)
        items, rows, labelled_rows = (n / (total or 1) for n, total in zip(counts, self._totals or counts, strict=True))
        plain = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        values, outputs = self._with_the_pass_of_the_loss(model, plain, inputs)
        loss, outputs = self._loss(model, inputs, outputs, num_items_in_batch, labelled=items > 0)
        if self.compute_loss_func is None:
            loss = loss * items
        for name, (weight, regularizer) in self.terms.items():
            if name not in values:
                values[name] = self._value(regularizer, plain, inputs, outputs, labelled=labelled_rows > 0)
            part = labelled_rows if regularizer.supervised else rows
            self._sums[name] += part * values[name].detach()
            loss = loss + self._weight(weight) * part * values[name]
        self._batch_of_step += 1
        if self._trainer_divides(num_items_in_batch):
            loss = loss * self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().prediction_step(model, _ignoring(inputs), *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._steps_since_log:
            for name, total in self._sums.items():
                logs[name] = self.accelerator.gather(total.reshape(1)).mean().item() / self._steps_since_log
                total.zero_()
            self._steps_since_log = 0
        super().log(logs, *args, **kwargs)

    def _counts(self, inputs: Mapping[str, Any]) -> tuple[int, int, int]:
        """Labelled items, rows and labelled rows of a batch. Labels that are not a tensor are counted by rows."""
        rows = find_batch_size(inputs)
        labels = inputs.get("labels")
        if not isinstance(labels, Tensor):
            return rows, rows, rows
        items = labels[..., 1:] if self._causal else labels
        return int((items != IGNORED).sum()), rows, int((labels != IGNORED).reshape(rows, -1).any(dim=1).sum())

    def _with_the_pass_of_the_loss(
        self, model: nn.Module, plain: nn.Module, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], Any]:
        """The term whose first pass is that of the loss as well, and what that pass returned; nothing if there is none.

        With ``noise="shared"`` the first pass must be made by the regulariser, which repeats parts of it.
        """
        inside = model.module if isinstance(model, DistributedDataParallel) else model
        if self._unlabelled is not None or self.label_smoother is not None or plain is not inside:
            return {}, None
        for name, (_, regularizer) in self.terms.items():
            if getattr(regularizer, "noise", None) == "shared" and not isinstance(regularizer.output, int):
                passes = _Passes(model, plain)
                x = inputs if self.compute_loss_func is None else self._without_labels(inputs)
                with self._under_autocast(plain):
                    value = regularizer(passes, x, mask=_mask(regularizer, x))
                return {name: value}, convert_to_fp32(passes.first)
        return {}, None

    def _loss(
        self, model: nn.Module, inputs: dict[str, Any], outputs: Any, items: Tensor | int | None, *, labelled: bool
    ) -> tuple[Tensor, Any]:
        """The mean loss of the batch, 0 if no row has a label, and the output of the model."""
        given = model if outputs is None else cast(nn.Module, lambda **_: outputs)
        if self.compute_loss_func is not None:
            loss, outputs = super().compute_loss(given, inputs, True, items)
        elif labelled:
            loss, outputs = super().compute_loss(given, inputs, True, None)
        else:  # The mean of no losses would be NaN.
            outputs = given(**self._without_labels(inputs))
            loss = torch.stack([(weight * 0).sum() for weight in model.parameters() if weight.requires_grad]).sum()
        return loss, outputs

    def _value(
        self, regularizer: Regularizer, model: nn.Module, inputs: dict[str, Any], outputs: Any, *, labelled: bool
    ) -> Tensor:
        """The term of the batch."""
        x, y, target = self._without_labels(inputs), None, outputs
        if regularizer.supervised:
            y = self._labels(regularizer, inputs)
            if not labelled:
                return torch.zeros((), device=self.args.device)
        elif self._unlabelled is not None:
            x, target = self._unlabelled_batch(self._unlabelled), None
        shared, by_place = getattr(regularizer, "noise", None) == "shared", isinstance(regularizer.output, int)
        if shared or by_place or not isinstance(regularizer, _TAKE_THE_FORWARD):
            target = None  # (By place: the output has the loss in front if labels were given.)
        with self._under_autocast(model):
            value: Tensor = regularizer(model, x, y, target=target, mask=_mask(regularizer, x))
        return value

    def _labels(self, regularizer: Regularizer, inputs: dict[str, Any]) -> Tensor:
        labels = inputs.get("labels")
        if not isinstance(labels, Tensor):
            raise InvalidValueError(
                f"expected labels for a supervised regulariser, got a batch of {', '.join(inputs)}; give the rows of "
                f"train_dataset a column named labels, or use an unsupervised regulariser"
            )
        if self._causal:
            raise InvalidValueError(
                "expected labels of the same positions as the logits, got those of a causal language model, which are "
                "shifted by one; use an unsupervised regulariser"
            )
        labels = labels.masked_fill(labels == IGNORED, UNLABELLED)
        if not (labels.is_floating_point() and str(regularizer.divergence).startswith("bernoulli")):
            return labels
        if not torch.equal(labels, labels.round()):  # Multi-label heads of Transformers take floating labels.
            raise InvalidValueError("expected labels 0 and 1 for a supervised regulariser, got fractions")
        return labels.long()

    def _without_labels(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name not in (*self.label_names, "labels")}

    def _unlabelled_batch(self, rows: ShuffledRows) -> dict[str, Any]:
        """The rows that stand beside this batch."""
        size = self.unlabelled_batch_size or self._train_batch_size
        batch = self.state.global_step * self.args.gradient_accumulation_steps + self._batch_of_step
        start = (batch * self.args.world_size + self.args.process_index) * size
        collate = self._get_collator_with_removed_columns(self.data_collator, description="unlabelled")
        return self._without_labels(self._prepare_inputs(collate(rows[start : start + size])))

    def _weight(self, weight: Weight) -> float:
        if not callable(weight):
            return weight
        return checked_weight(weight(min(self.state.global_step / max(self.state.max_steps, 1), 1.0)))

    def _trainer_divides(self, items: Tensor | int | None) -> bool:
        """Whether the Trainer will divide the loss by the number of accumulated batches."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None
        return self._totals is not None and not scaled

    @contextlib.contextmanager
    def _under_autocast(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the regulariser instead of inside ``model.forward``, where Accelerate has put it.

        So gradients in the input can be computed without autocast, and the model is the plain one.
        """
        attributes, changed = vars(model), None
        if getattr(attributes.get("_original_forward"), "__func__", None) is type(model).forward:
            changed = attributes.pop("forward", None)
        try:
            with self.accelerator.autocast():
                yield
        finally:
            if changed is not None:
                attributes["forward"] = changed


class _Passes(nn.Module):
    """The model as a regulariser runs it, whose first pass is the Trainer's own.

    Args:
        trained: The model that the Trainer calls. With several processes, the pass through it makes them exchange
            their gradients.
        plain: The model inside.
    """

    def __init__(self, trained: nn.Module, plain: nn.Module) -> None:
        super().__init__()
        self.trained = trained
        self.plain = plain
        self.first: Any = None

    def forward(self, **inputs: Any) -> Any:
        if self.first is None:
            self.first = self.trained(**inputs)
            return self.first
        return self.plain(**inputs)


def _ignoring(inputs: Any) -> Any:
    """A batch whose integer labels -1 are replaced by -100, which is what Transformers leaves out."""
    labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return inputs
    return {**inputs, "labels": labels.masked_fill(labels == UNLABELLED, IGNORED)}


def _mask(regularizer: Regularizer, x: Mapping[str, Any]) -> Tensor | None:
    mask = x.get("attention_mask")
    return mask.bool() if regularizer.class_dim is not None and isinstance(mask, Tensor) else None
