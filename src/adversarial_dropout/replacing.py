"""Replace the dropout layers of a model by AdversarialDropout layers."""

import difflib
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import nn

from adversarial_dropout.errors import InvalidTypeError, InvalidValueError
from adversarial_dropout.layers import AdversarialDropout, Granularity, Rescale

Match = str | re.Pattern[str] | type[nn.Module] | Callable[[str, nn.Module], bool]
"""Which layers to replace: a name or pattern, a regular expression, a class, or a function of name and layer."""

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_REPLACEABLE = (nn.Dropout, *_OF_CHANNELS, AdversarialDropout)


def replace_dropout(
    model: nn.Module,
    match: Match | None = None,
    *,
    p: float | None = None,
    delta: float = 0.05,
    granularity: Granularity | None = None,
    rescale: Rescale = "inverted",
    batch_dim: int = 0,
) -> list[str]:
    """Replace dropout layers of ``model``, in place, by :class:`~adversarial_dropout.AdversarialDropout` layers.

    These are ``nn.Dropout``, ``nn.Dropout1d``, ``nn.Dropout2d`` and ``nn.Dropout3d``; an AdversarialDropout that
    matches gets the new settings. With the defaults, training and evaluation of the model stay the same until a
    regulariser searches. A search moves the masks of all AdversarialDropout layers, each within its own budget, and
    costs what follows the first of them: so replace the last dropout, or few of the last ones.

    Args:
        model: Module whose submodules are replaced. Parameters, optimisers and ``state_dict`` keys are unaffected.
        match: Which dropout layers to replace. A string: the dotted name of a layer as in ``model.named_modules()``,
            or a shell-style pattern of names with ``*``, ``?`` or ``[...]``, where ``*`` also spans dots: ``"*"``
            replaces all. A compiled regular expression: searched in the names. A class: its instances. A function
            ``(name, layer) -> bool``: called for each dropout layer. ``None``: the only dropout layer of the model.
        p: Probability of *dropping* a unit, in [0, 1]. ``None``: the p of the replaced layer.
        delta: Budget δ of each layer, in [0, 1].
        granularity: What a unit is, see :class:`~adversarial_dropout.AdversarialDropout`. ``None``: what the replaced
            layer drops, ``"element"`` for ``nn.Dropout`` and ``"channel"`` for ``nn.Dropout1d``, ``2d`` and ``3d``.
        rescale: ``"inverted"``, ``"sum"`` or ``"none"``.
        batch_dim: Dimension of the examples in the layers' input; 1 for time-first sequences.

    Returns:
        The names of the replaced layers, in the order of ``model.named_modules()``. A layer with several names is
        replaced under all of them by one new layer.

    Raises:
        InvalidValueError: nothing matches; ``match`` is ``None`` and the model has several dropout layers; the name is
            that of another module or of ``model`` itself; a layer has hooks, which would be lost; a setting is out of
            range; the model is compiled. The model is then unchanged.
        InvalidTypeError: ``model`` or ``match`` has an invalid type, or ``model`` is TorchScript.

    Limits:
        ``nn.LSTM(dropout=...)`` and ``nn.MultiheadAttention(dropout=...)`` drop units inside a function, where no layer
        can be replaced; so do models that call ``functional.dropout``. A layer that ``forward`` does not call can be
        replaced, but no search reaches it: some attention layers have a dropout of which they only read ``p``.
        ``nn.Dropout(inplace=True)`` becomes a layer that leaves its input as it is.

    Example:
        >>> replace_dropout(model, "classifier.dropout", delta=0.05)
        ['classifier.dropout']
        >>> loss = F.cross_entropy(model(x), y) + VirtualAdversarialDropout()(model, x_unlabelled)
    """
    _check_model(model)
    layers = _dropout_layers(model)
    chosen = _chosen(model, layers, match)
    new: dict[nn.Module, AdversarialDropout] = {}
    for name, old in layers.items():
        if name in chosen and old not in new:
            _check_layer(name, old)
            new[old] = AdversarialDropout(
                cast(float, old.p) if p is None else p,
                delta,
                granularity=_granularity_of(old) if granularity is None else granularity,
                rescale=rescale,
                batch_dim=batch_dim,
            ).train(old.training)
    replaced = [name for name, old in layers.items() if old in new]
    for name in replaced:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent).add_module(child, new[layers[name]])
    return replaced


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"expected a torch.nn.Module as model, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidTypeError("expected a Python module, got TorchScript, whose layers are fixed; replace them before")
    if isinstance(model, _REPLACEABLE):
        raise InvalidValueError(
            f"expected a model that contains dropout layers, got a {type(model).__name__} itself; use "
            f"AdversarialDropout(p, delta) in its place"
        )
    if any(_is_compiled(module) for module in model.modules()):
        raise InvalidValueError("expected a model that is not compiled yet; call replace_dropout before torch.compile")


def _is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile(module)`` returned the module, or ``module.compile()`` has been called."""
    return type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None


def _dropout_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of ``model`` that can be replaced, under each of their names."""
    names = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in names if isinstance(module, _REPLACEABLE)}


def _chosen(model: nn.Module, layers: dict[str, nn.Module], match: Match | None) -> set[str]:
    """The names in ``layers`` that match, at least one."""
    if match is None:
        if len(set(layers.values())) > 1:
            raise InvalidValueError(
                f"expected match, because the model has several dropout layers: {_listed(layers)}. The last one is the "
                f'usual choice, match="{list(layers)[-1]}"; match="*" replaces all'
            )
        chosen = set(layers)
    elif isinstance(match, str):
        chosen = {name for name in layers if name == match or fnmatchcase(name, match)}
        if not chosen:
            _check_name(model, layers, match)
    elif isinstance(match, re.Pattern):
        chosen = {name for name in layers if match.search(name)}
    elif isinstance(match, type):
        if not issubclass(match, _REPLACEABLE) and not any(issubclass(each, match) for each in _REPLACEABLE):
            allowed = ", ".join(each.__name__ for each in _REPLACEABLE)
            raise InvalidValueError(
                f"expected the class of a dropout layer ({allowed}), got {match.__name__}; put an AdversarialDropout "
                f"in front of a layer of another class instead"
            )
        chosen = {name for name, layer in layers.items() if isinstance(layer, match)}
    elif callable(match):
        chosen = {name for name, layer in layers.items() if match(name, layer)}
    else:
        raise InvalidTypeError(
            f"expected match to be a name, a pattern, a class or a function (name, layer) -> bool, got {match!r} "
            f"({type(match).__name__}); for several names, use a pattern or call replace_dropout for each"
        )
    if not chosen:
        near = difflib.get_close_matches(match, layers, cutoff=0.5) if isinstance(match, str) else []
        nearest = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise InvalidValueError(
            f"expected match to select a dropout layer of the {type(model).__name__}, but {match!r} selects none"
            f"{nearest}. {_found(model, layers)}"
        )
    return chosen


def _check_name(model: nn.Module, layers: dict[str, nn.Module], name: str) -> None:
    """Raise if ``name`` is that of a module which is no dropout layer."""
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if module is None:
        return
    inner = [layer for layer in layers if not name or layer.startswith(f"{name}.")]
    remedy = f'match="{name}.*" replaces the dropout layers in it' if inner else _found(model, layers)
    raise InvalidValueError(
        f'expected the name of a dropout layer, but "{name}" is a {type(module).__name__}{_inside([module])}; {remedy}'
    )


def _check_layer(name: str, layer: nn.Module) -> None:
    """Raise if a new layer would not do what ``layer`` does."""
    forwards = {each.forward for each in _REPLACEABLE}
    if type(layer).forward not in forwards or "forward" in vars(layer):
        raise InvalidValueError(
            f'"{name}" is a {type(layer).__name__} with a forward of its own, which would be lost; replace it by hand: '
            f'model.set_submodule("{name}", AdversarialDropout(...))'
        )
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    if any(hooks):
        raise InvalidValueError(f'"{name}" has hooks, which would be lost; register them after the replacement')


def _granularity_of(layer: nn.Module) -> Granularity:
    if isinstance(layer, AdversarialDropout):
        return layer.granularity
    return "channel" if isinstance(layer, _OF_CHANNELS) else "element"


def _found(model: nn.Module, layers: dict[str, nn.Module]) -> str:
    """What a model has to offer, for the end of an error message."""
    found = f"Its dropout layers: {_listed(layers)}" if layers else "It has no dropout layer"
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        found += "; those inside TorchScript cannot be replaced"
    return found + _inside(model.modules())


def _listed(layers: Iterable[str]) -> str:
    """The names, those that differ in numbers alone as one pattern with their count; the last one is marked."""
    names = list(layers)
    counts: dict[str, list[str]] = {}
    for name in names:
        counts.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    listed = [each[0] if len(each) == 1 else f"{pattern} ({len(each)})" for pattern, each in counts.items()]
    return ", ".join(listed) + (f" (last: {names[-1]})" if len(names) > 1 else "")


def _inside(modules: Iterable[nn.Module]) -> str:
    """Names the classes that drop units inside a function, and are not replaceable."""
    droppers = (nn.RNNBase, nn.MultiheadAttention)
    found = {type(each).__name__ for each in modules if isinstance(each, droppers) and each.dropout > 0}
    return f" ({', '.join(sorted(found))} drops units inside a function, which cannot be replaced)" if found else ""
