"""The double attention block of A2-Nets, Chen et al. 2018."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from saccade.errors import bad_option, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import DotProductMap, Tap


def double(x: Tensor, gather: Tensor, distribute: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Return at each position i the sum over n of d_ni f(sum_j g_nj x_j).

    Args:
        x: Features, (B, C, N).
        gather: Weights g of the positions for each descriptor, (B, n, N), with sums over positions of 1.
        distribute: Weights d of the descriptors for each position, (B, n, N), with sums over descriptors
            of 1.
        transform: Function f of the descriptors, (B, C, n) to (B, C', n).

    Returns:
        Mixed descriptors, (B, C', N).
    """
    return transform(x @ gather.mT.to(x.dtype)) @ distribute.to(x.dtype)


class Double(nn.Module):
    """Double attention: gathers features in a few descriptors, and distributes them to all positions.

        G = A softmax(B)^T        z_i = G softmax(v_i)        y_i = x_i + W z_i + c
        A = W_A x + b_A           B = W_B x + b_B             V = W_V x + b_V

    A (`feature`), B (`gather`) and V (`distribute`) are 1 x 1 convolutions of x. The softmax of B runs over
    positions, once for each of the descriptors, the columns of G. The softmax of v_i, the column i of V, runs
    over descriptors. W and c are `output`, and y is the output.

    Recording gives the weight of position j for position i, the product of both attentions, which sums to 1.

    References:
        Chen, Kalantidis, Li, Yan, Feng: A^2-Nets: Double Attention Networks, NeurIPS 2018 (equations 3 to 5).

    Args:
        channels: Number of channels C.
        inner_channels: Number of channels of A, and number of descriptors, at least 1; by default, C // 4.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If no inner channel is left.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the equations; the authors' networks add batch norm. Since all weights sum to 1,
        W_A and W act on the descriptors instead of on the positions, with the same result at less cost. The
        cost grows linearly with the number of positions.

    Example:
        >>> import torch
        >>> Double(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, inner_channels: int | None = None) -> None:
        super().__init__()
        if inner_channels is None:
            if channels < 4:
                raise bad_option("double", "must be at least 4 to take a quarter", channels=channels)
            inner_channels = channels // 4
        check_positive("double", inner_channels=inner_channels)
        self.channels = channels
        self.feature = nn.Conv2d(channels, inner_channels, 1)
        self.gather = nn.Conv2d(channels, inner_channels, 1)
        self.distribute = nn.Conv2d(channels, inner_channels, 1)
        self.output = nn.Conv2d(inner_channels, channels, 1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("double", x, "B C H W", C=self.channels)
        gather = self.gather(x).flatten(2).softmax(2)
        distribute = self.distribute(x).flatten(2).softmax(1)
        if self.tap.recording:
            queries, keys = (z.detach().mT.unsqueeze(1) for z in (distribute, gather))
            shape = tuple(x.shape[2:])
            self.tap.publish(DotProductMap(queries, keys, 1.0, shape, shape))
        return x + double(x.flatten(2), gather, distribute, self._transform).reshape(x.shape)

    def _transform(self, descriptors: Tensor) -> Tensor:
        transformed: Tensor = self.output(self.feature(descriptors.unsqueeze(3)))
        return transformed.squeeze(3)


SPEC = Spec(
    name="double",
    domain="pairwise",
    paper=Paper(
        "A^2-Nets: Double Attention Networks",
        "Chen, Kalantidis, Li, Yan, Feng",
        2018,
        "https://arxiv.org/abs/1810.11579",
    ),
    summary="gather features in a few descriptors, and distribute them to all positions",
    module=Double,
    function=double,
    examples=(Example("B C H W"), Example("B C H W", {"inner_channels": 5})),
    maps=(DotProductMap,),
    flow="x -> [[B -> softmax over places | A] -> gather | V -> softmax | ] -> distribute -> W, add -> y",
)
