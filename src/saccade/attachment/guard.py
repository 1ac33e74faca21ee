"""The guard of attached attention: a hook around its host that warns when the attention no longer runs.

Something may replace the host, and the attention goes with it: conv-bn fusion puts an `Identity` in the place
of a batch norm, `SyncBatchNorm.convert_sync_batchnorm` a module without hooks, timm a frozen norm. The guard
is a hook of the module around the host, which such a step leaves alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy

from saccade._torch import forward_hooks, tree_leaves, tree_map
from saccade.attachment.hooks import Attached, is_called

# Quantization of graphs replaces them; fusion leaves attended norms alone.
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(eq=False)
class Notice:
    """Whether a model has warned. All guards of one call of `attach` share it."""

    given: bool = False


@dataclass(eq=False)
class Guard:
    """A forward hook of the nearest called module around hosts, the owner.

    Args:
        path: The path of the owner when attention was attached.
        notice: Whether the model has warned already.
        expected: The attention by its path inside the owner. It outlives a replaced host, for `repair`.
    """

    path: str
    notice: Notice
    expected: dict[str, Attached] = field(default_factory=dict)

    def __call__(self, owner: nn.Module, _: Any, output: Any) -> Any:
        if torch.compiler.is_compiling():
            return None
        if any(isinstance(leaf, Proxy) for leaf in tree_leaves(output)):
            return self._trace(owner, output)
        if not self.notice.given and (missing := self.missing(owner)):
            self.notice.given = True
            first = ".".join(filter(None, (self.path, missing[0])))
            warnings.warn(
                f"the attention {first} no longer runs, since its module was replaced or lost its hook; "
                "saccade.attached(model) lists what runs, and saccade.repair(model) restores the rest",
                stacklevel=2,
            )
        return None

    def missing(self, owner: nn.Module) -> list[str]:
        """Return the paths in the owner of the attention that no longer runs."""
        expected = {path: child for path, child in self.expected.items() if not child.is_removed}
        lost = [path for path, child in expected.items() if not _runs_at(owner, path, child)]
        if lost:  # perhaps another module wraps the host
            running = {
                child for host in owner.modules() for child in host.children() if _runs_in(host, child)
            }
            lost = [path for path in lost if self.expected[path] not in running]
        return lost

    def _trace(self, owner: nn.Module, output: Any) -> Any:
        """Keep the attention of the modules that torch.fx does not look into while it traces the owner.

        The host becomes a node that passes combine with its neighbors by their types. Another node that uses
        its input and its output prevents that.
        """
        tracer: Any = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Proxy)).tracer
        for path, attached in self.expected.items():
            host = _host(owner, path)
            if host is None or not _runs_in(host, attached):
                continue
            target = tracer.path_of_module(host)
            nodes = [n for n in tracer.graph.nodes if n.op == "call_module" and n.target == target]
            for node in nodes:
                output = _separate(tracer, node, output)
            is_lost = type(host) in _NORMS and "quantization" in type(tracer).__module__
            if nodes and (is_lost or isinstance(host, _WEIGHTED)):
                advice = "fold it with saccade.fuse first" if is_lost else "attach to the module around it"
                warnings.warn(
                    f"torch.fx sees {target} as one module: a pass that replaces it (quantization) drops its "
                    f"attention; {advice}",
                    stacklevel=2,
                )
        return output


def separate(output: Any, _: Any) -> Any:
    """Return the output of a host; the node in a graph of torch.fx that keeps the host from being fused."""
    return output


def _separate(tracer: Any, node: Any, output: Any) -> Any:
    """Insert `separate` after a node; return the output of the owner, in which it replaces the node."""
    if any(user.target is separate for user in node.users):
        return output
    with tracer.graph.inserting_after(node):
        kept = tracer.create_node("call_function", separate, (node, node.args[0]), {})
    node.replace_all_uses_with(kept, delete_user_cb=lambda user: user is not kept)
    return tree_map(lambda p: tracer.proxy(kept) if isinstance(p, Proxy) and p.node is node else p, output)


def guards(module: nn.Module) -> list[Guard]:
    """Return the guards of a module."""
    return [hook for hook in forward_hooks(module).values() if isinstance(hook, Guard)]


def remove_guards(model: nn.Module, keep: Collection[Guard] = ()) -> None:
    """Remove the guards of a model except those in `keep`."""
    for module in model.modules():
        hooks = forward_hooks(module)
        for key in [key for key, hook in hooks.items() if isinstance(hook, Guard) and hook not in keep]:
            del hooks[key]


def guard(owner: nn.Module, path: str, notice: Notice, inner: str, attached: Attached) -> None:
    """Expect attention at a path inside an owner."""
    own = next((guard for guard in guards(owner) if guard.notice is notice), None)
    if own is None:
        own = Guard(path, notice)
        owner.register_forward_hook(own)
    own.expected[inner] = attached


def _runs_at(owner: nn.Module, path: str, attached: Attached) -> bool:
    host, name = _host(owner, path), path.rpartition(".")[2]
    child = getattr(host, name, None)  # a replica of DataParallel has another object
    return host is not None and isinstance(child, Attached) and is_called(host, attached.place)


def _runs_in(host: nn.Module, child: nn.Module) -> bool:
    return (
        isinstance(child, Attached)
        and any(c is child for c in host.children())
        and is_called(host, child.place)
    )


def _host(owner: nn.Module, path: str) -> nn.Module | None:
    """Return the module that holds a child, or None if nothing is there."""
    module: Any = owner
    for part in path.split(".")[:-1]:
        module = getattr(module, part, None)
    return module if isinstance(module, nn.Module) else None
