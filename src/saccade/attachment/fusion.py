"""`fuse`: fold batch norms into convolutions without losing attached attention."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from saccade._torch import HOOKS
from saccade.attachment.hooks import add_hook, attached_to, attend_to_output, check_model
from saccade.attachment.trace import Call, Node, Trace, trace_forward
from saccade.errors import BadOption

_PAIRS = (
    (nn.Conv1d, nn.BatchNorm1d),
    (nn.Conv2d, nn.BatchNorm2d),
    (nn.Conv3d, nn.BatchNorm3d),
    (nn.Linear, nn.BatchNorm1d),
)
_NORMS = tuple({norm for _, norm in _PAIRS})


def fuse(model: nn.Module, example_inputs: object) -> list[str]:
    """Fold each batch norm into the convolution or linear layer before it, for inference.

    An `nn.Identity` takes the place of the norm, with the attention and all paths of the norm, so that a
    checkpoint of the attention still loads. A norm stays if the layer before it has attention or a hook, or
    if something else uses the output of this layer. The output changes by rounding only.

    Args:
        model: The model in evaluation mode, changed in place.
        example_inputs: The inputs of the model, as for `attach`. A pass shows which layers follow each other.

    Returns:
        The paths of the folded norms.

    Raises:
        BadOption: If a batch norm is in training mode, if the model is compiled, scripted or wrapped, or if
            its forward fails.

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16)).eval()
        >>> x = torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "cbam", where=["1"], example_inputs=x, reduction=4, identity=False)
        >>> before = model(x)
        >>> sc.fuse(model, x)
        ['1']
        >>> torch.allclose(model(x), before, atol=1e-5), [a.runs for a in sc.attached(model)]
        (True, [True])
    """
    check_model(model, "fuse", "fuse the original model")
    norms = {path: part for path, part in model.named_modules() if isinstance(part, _NORMS)}
    if training := [path for path, norm in norms.items() if norm.training]:
        message = f"fuse: the batch norm {training[0]!r} is in training mode; call model.eval() first"
        raise BadOption(message, owner="fuse", option="model", value=type(model).__name__)
    trace = trace_forward(model, example_inputs)
    uses = Counter(parent for node in trace.nodes for parent in set(node.parents))
    pairs = [(layer, norm) for norm in trace.calls if (layer := _layer_before(norm, trace, uses))]
    for layer, norm in pairs:
        _fold(layer.module, norm.module)
        identity = _identity(norm.module)
        for path in trace.paths[norm.module]:
            model.set_submodule(path, identity)
    return [norm.path for _, norm in pairs]


def _layer_before(norm: Call, trace: Trace, uses: Counter[Node]) -> Call | None:
    """Return the call of the layer that a norm can be folded into, or None."""
    node, module = norm.input_node, norm.module
    if node is None or uses[node] > 1 or node in trace.outputs or attached_to(module, "input"):
        return None
    if not norm.path or not trace.is_unique(norm) or getattr(module, "running_mean", None) is None:
        return None
    layers = (
        call for call in trace.calls if call.output_node is node and call.path and trace.is_unique(call)
    )
    pairs = (call for call in layers if (type(call.module), type(module)) in _PAIRS)
    return next((call for call in pairs if not _has_hooks(call.module) and not _has_hooks(module)), None)


def _has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks that do not belong to the attention attached to its output."""
    hooks = [hook for name in HOOKS for hook in getattr(module, name).values()]
    if attached_to(module) and not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True  # attention between the layer and the norm
    return any(hook is not attend_to_output for hook in hooks)


def _fold(layer: Any, norm: Any) -> None:
    """Give a layer the parameters with which it computes what the norm computed of its output."""
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    fused = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    layer.weight, layer.bias = fused(layer.weight, layer.bias, *statistics)


def _identity(norm: nn.Module) -> nn.Identity:
    """Return an identity with the attention of a norm."""
    identity = nn.Identity().eval()
    for name, child in attached_to(norm).items():
        identity.add_module(name, child)
        add_hook(identity, child.place)
    return identity
