"""Omni-dimensional dynamic convolution, Li et al. 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, bad_shape, check_positive, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, Tap
from saccade.ops.gates import mean, scale


def odconv(x: Tensor, weight: Tensor, kernels: Tensor, places: Tensor) -> Tensor:
    """Convolve each image with its own mixture of kernels, sum_n kernels_n places_t weight_n,oit.

    Args:
        x: Features, (B, C, H, W).
        weight: Kernels, (n, O, C, k, k), for an odd k.
        kernels: Weights of the kernels, (B, n).
        places: Weights of the k^2 places of a kernel, (B, k^2).

    Returns:
        Features, (B, O, H, W).
    """
    batch, channels, *grid = x.shape
    k = weight.shape[-1]
    mixed = (kernels @ weight.flatten(1)).unflatten(1, (-1, k * k)) * places.unsqueeze(1)
    if torch.compiler.is_exporting():  # ONNX has no convolution with an unknown number of groups
        windows = F.unfold(x, k, padding=k // 2)
        own = mixed.unflatten(1, (-1, channels)).flatten(2).to(x.dtype)
        sums: Tensor = (own @ windows).unflatten(2, grid)
        return sums
    own = mixed.reshape(-1, channels, k, k).to(x.dtype)
    y = F.conv2d(x.reshape(1, batch * channels, *grid), own, padding=k // 2, groups=batch)
    return y.reshape(batch, -1, *grid)


class ODConv(nn.Module):
    """Omni-dimensional dynamic convolution: a k x k convolution whose kernel depends on the image.

        z = ReLU(BN(W mean_p x))        c = sigma((W_c z + b_c) / t)        f = sigma((W_f z + b_f) / t)
        s = sigma((W_s z + b_s) / t)    a = softmax((W_a z + b_a) / t)
        y_o = f_o sum_n a_n sum_i,t s_t K_n,o,i,t c_i x_i,p+t

    K are the n kernels (`weight`), without bias; o and i are output and input channels, t an offset of the
    kernel. The weights c of the input channels (`channel`), f of the filters (`filter`), s of the places of a
    kernel (`place`) and a of the kernels (`kernel`) are computed from the descriptor z of max(C // r, 16)
    values (`reduce`, `norm`). sigma is the logistic function and t the temperature. A kernel of size 1 has no
    s, a single kernel no a.

    The layer replaces a convolution: it has no residual connection. Recording gives the weight a_n f_o of
    each kernel and channel.

    References:
        Li, Zhou, Yao: Omni-Dimensional Dynamic Convolution, ICLR 2022 (equation 2).

    Args:
        channels: Number of input and output channels C.
        kernels: Number of kernels n, at least 1.
        reduction: Reduction ratio r of the descriptor, at least 1. The descriptor has at least 16 values.
        kernel_size: Kernel size k, odd.
        temperature: Temperature t, above 0. The attribute can be changed in training, as the authors do.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If the kernel size is even, or an option is out of range.
        BadShape: For any other input shape; in training also for a batch of one, since the batch norm after
            the global mean then has a single value per channel.

    Note:
        Deviation: none from the authors' code with stride 1 and one group. Kernels are mixed before the
        places are weighted, so that no tensor of n kernels for each image is built.

    Example:
        >>> import torch
        >>> ODConv(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        kernels: int = 4,
        reduction: int = 16,
        kernel_size: int = 3,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("odconv", kernels=kernels, reduction=reduction, kernel_size=kernel_size)
        check_positive_number("odconv", temperature=temperature)
        if kernel_size % 2 == 0:
            raise bad_option("odconv", "must be odd to keep the map size", kernel_size=kernel_size)
        self.channels, self.temperature = channels, temperature
        hidden = max(channels // reduction, 16)
        self.weight = nn.Parameter(torch.empty(kernels, channels, channels, kernel_size, kernel_size))
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.channel = nn.Conv2d(hidden, channels, 1)
        self.filter = nn.Conv2d(hidden, channels, 1)
        self.place = nn.Conv2d(hidden, kernel_size**2, 1) if kernel_size > 1 else None
        self.kernel = nn.Conv2d(hidden, kernels, 1) if kernels > 1 else None
        self.tap = Tap()
        convs = [layer for layer in self.children() if isinstance(layer, nn.Conv2d)]
        for weight in (*self.weight.unbind(), *(conv.weight for conv in convs)):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        for conv in convs:
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("odconv", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] == 1:
            raise bad_shape(
                "odconv", "batch norm of the channel means needs at least 2 images in training", x
            )
        z = F.relu(self.norm(self.reduce(mean(x.flatten(2))[..., None, None])))
        ones = z.new_ones(z.shape[0], 1)
        channel, filters = (torch.sigmoid(self._logits(f, z)) for f in (self.channel, self.filter))
        places = ones if self.place is None else torch.sigmoid(self._logits(self.place, z))
        kernels = ones if self.kernel is None else self._logits(self.kernel, z).softmax(1)
        weighted = scale(x, channel[..., None, None])
        y = odconv(weighted, self.weight, kernels, places)
        if self.tap.recording:
            self._publish(weighted, kernels, filters, places)
        return scale(y, filters[..., None, None])

    def _logits(self, layer: nn.Conv2d, z: Tensor) -> Tensor:
        logits: Tensor = layer(z).flatten(1) / self.temperature
        return logits

    @torch.no_grad()
    def _publish(self, x: Tensor, kernels: Tensor, filters: Tensor, places: Tensor) -> None:
        """Publish the weights a_n f_o with the features of each kernel, as its branches."""
        one = kernels.new_ones(kernels.shape[0], 1)
        branches = [odconv(x, weight[None], one, places) for weight in self.weight]
        self.tap.publish(BranchMap.of(kernels.unsqueeze(2) * filters.unsqueeze(1), branches))


SPEC = Spec(
    name="odconv",
    domain="branch",
    paper=Paper(
        "Omni-Dimensional Dynamic Convolution",
        "Li, Zhou, Yao",
        2022,
        "https://arxiv.org/abs/2209.07947",
    ),
    summary="mix kernels per image, and weight their filters, channels and places",
    module=ODConv,
    function=odconv,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"kernels": 2, "kernel_size": 5, "reduction": 2, "temperature": 4.0}),
        Example("B C H W", {"kernels": 1, "kernel_size": 1}),
    ),
    maps=(BranchMap,),
    flow="x -> [means -> W, BN, ReLU -> [c | f | s | a] -> kernel of the image | ] -> convolve -> y",
)
