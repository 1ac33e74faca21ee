"""Split attention, Zhang et al. 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import BranchMap, Tap
from saccade.ops.gates import mean, scale


def split_attention(
    features: Tensor, reduce: nn.Module, select: nn.Module, radix: int = 2, cardinality: int = 1
) -> Tensor:
    """Return the weights of the splits, one per split and channel: softmax_r(select(reduce(s)))_r.

    s is the mean over positions of the sum of all splits, and r runs over splits. A single split is weighted
    by a logistic function instead.

    Args:
        features: Splits, (B, R * C, H, W), one after the other.
        reduce: Module from s, (B, C, 1, 1), to the descriptor z, (B, d, 1, 1).
        select: Module from z to the logits, (B, R * C, 1, 1), in the order cardinal group, split, channel.
        radix: Number of splits R.
        cardinality: Number of cardinal groups K.

    Returns:
        Weights, (B, R, C).
    """
    means = mean(features.flatten(2)).unflatten(1, (radix, -1)).sum(1)  # the mean of the sum, without a map
    logits = select(reduce(means[..., None, None])).flatten(1).unflatten(1, (cardinality, radix, -1))
    logits = logits.transpose(1, 2).flatten(2)
    return logits.softmax(1) if radix > 1 else torch.sigmoid(logits)


class SplitAttention(nn.Module):
    """Split attention: a grouped convolution to R splits, mixed per channel.

        u = ReLU(BN(F * x))                    s = mean_p sum_r u_rp
        z = ReLU(BN(W s + b))                  a_r = softmax_r(A_r z + c_r)        y = sum_r a_r u_r

    F is `conv` (k x k, C to R C channels, R K groups, no bias), u_r its split r of C channels, p a position,
    and s the channel means of the summed splits. W is `reduce` with max(R C // reduction, 32) outputs, and
    A_r are the rows of `select` that belong to split r; both have K groups and biases. For R = 1, a is the
    logistic function of the logits. y is the output.

    The layer replaces a convolution: it has no residual connection, so it is not close to the identity at
    initialization.

    References:
        Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li, Smola: ResNeSt: Split-Attention
        Networks, CVPR Workshops 2022 (section 3.1).

    Args:
        channels: Number of channels C, a multiple of `radix * cardinality`.
        radix: Number of splits R, at least 1.
        cardinality: Number of cardinal groups K. It divides the width of the descriptor.
        kernel_size: Kernel size k of the convolution, odd.
        reduction: Reduction ratio of the descriptor, at least 1.
        batch_norm: Whether batch norms follow the convolution and W. False is the default of timm's module.
        hidden: Width of the descriptor in place of max(R C // reduction, 32).

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If C or the width of the descriptor is not divisible, the kernel size is even, or an option
            is below 1.
        BadShape: For any other input shape; in training with batch norm also for a batch of one, since the
            norm after the global mean then has a single value per channel.

    Note:
        Deviation: none from the authors' code with batch norm, as in their networks, whose initialization of
        convolutions belongs to the network. As there, each split of the convolution sees C / R of the input
        channels.

    Example:
        >>> import torch
        >>> SplitAttention(32, cardinality=2)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        radix: int = 2,
        cardinality: int = 1,
        kernel_size: int = 3,
        reduction: int = 4,
        batch_norm: bool = True,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        options = {"radix": radix, "cardinality": cardinality, "kernel_size": kernel_size}
        check_positive("split_attention", **options, reduction=reduction)
        if kernel_size % 2 == 0:
            raise bad_option("split_attention", "must be odd to keep the map size", kernel_size=kernel_size)
        groups = radix * cardinality
        width = max(channels * radix // reduction, 32) if hidden is None else hidden
        check_positive("split_attention", hidden=width)
        if channels % groups:
            expected = f"must be a multiple of radix * cardinality = {groups}"
            raise bad_option("split_attention", expected, channels=channels)
        if width % cardinality:
            expected = f"must divide the {width} channels of the descriptor"
            raise bad_option("split_attention", expected, cardinality=cardinality)
        self.channels, self.radix, self.cardinality = channels, radix, cardinality
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        padding, splits = kernel_size // 2, radix * channels
        self.conv = nn.Conv2d(channels, splits, kernel_size, padding=padding, groups=groups, bias=False)
        self.norm = norm(splits)
        self.activation = nn.ReLU(inplace=True)
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, 1, groups=cardinality), norm(width), nn.ReLU())
        self.select = nn.Conv2d(width, splits, 1, groups=cardinality)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("split_attention", x, "B C H W", C=self.channels)
        if self.training and x.shape[0] == 1 and not isinstance(self.norm, nn.Identity):
            expected = "batch norm of the channel means needs at least 2 images in training"
            raise bad_shape("split_attention", expected, x)
        features = self.activation(self.norm(self.conv(x)))
        weights = split_attention(features, self.reduce, self.select, self.radix, self.cardinality)
        splits = features.unflatten(1, (self.radix, -1))
        if self.tap.recording:
            self.tap.publish(BranchMap.of(weights, splits.detach().unbind(1)))
        y: Tensor = scale(splits, weights[..., None, None]).sum(1)
        return y


SPEC = Spec(
    name="split_attention",
    domain="branch",
    paper=Paper(
        "ResNeSt: Split-Attention Networks",
        "Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li, Smola",
        2022,
        "https://arxiv.org/abs/2004.08955",
    ),
    summary="mix the splits of a grouped convolution, channel by channel",
    module=SplitAttention,
    function=split_attention,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"radix": 4, "cardinality": 2, "kernel_size": 5, "reduction": 1}),
        Example(
            "B C H W", {"radix": 1, "cardinality": 4, "kernel_size": 1, "batch_norm": False, "hidden": 8}
        ),
    ),
    maps=(BranchMap,),
    flow="x -> conv, BN, ReLU -> [means -> W, BN, ReLU -> A, softmax | ] -> sum -> y",
)
