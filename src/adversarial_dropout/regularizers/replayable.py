"""Which models can get recorded outputs in place of what they compute below their first AdversarialDropout layer."""

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parallel import DistributedDataParallel

from adversarial_dropout.layers import AdversarialDropout
from adversarial_dropout.regularizers.passes import Part


def reason_to_run_whole(model: nn.Module) -> str | None:
    """Why it is not certain that a pass with recorded outputs equals the whole pass."""
    modules = list(model.modules())
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    if torch.is_inference_mode_enabled():
        return "inference mode"
    if torch._C._get_tracing_state() is not None or _is_captured():
        return "the pass is being traced or captured"
    if _has_any_global_hook() or any(  # type: ignore[no-untyped-call]
        getattr(module, name) for module in modules for name in hooks
    ):
        return "a module has hooks"
    if any(
        isinstance(module, nn.DataParallel | DistributedDataParallel | torch.jit.ScriptModule) for module in modules
    ):
        return "a module is TorchScript or in a wrapper for several devices"
    if any("_fsdp_wrapped_module" in module._modules for module in modules):
        return "a module is sharded"
    if any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in modules):
        return "a module is compiled"
    return None


def _is_captured() -> bool:
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()


def starts_at_a_layer(model: nn.Module) -> bool:
    """Whether nothing is below the first layer, or the model itself says what is."""
    while isinstance(model, nn.Sequential) and len(model):
        model = model[0]
    return isinstance(model, AdversarialDropout | Part)


def around_layers(model: nn.Module) -> set[nn.Module]:
    """The layers, and the modules that contain them."""
    around = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, AdversarialDropout):
            parts = name.split(".")
            around |= {model.get_submodule(".".join(parts[:end])) for end in range(len(parts) + 1)}
    return around
