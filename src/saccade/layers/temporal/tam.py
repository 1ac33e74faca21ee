"""The temporal adaptive module, Liu et al. 2021."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import bad_option, bad_shape, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import Tap, TemporalMap, temporal_weights
from saccade.ops.gates import mean


def tam(x: Tensor, gates: Tensor, kernels: Tensor) -> Tensor:
    """Return y_ctp = sum_j k_cj g_c,t+j x_c,t+j,p, a convolution over the gated frames of each channel.

    The gated clip is not built: gates and kernel form one matrix of T x T weights for each channel.

    Args:
        x: Clips, (B, C, T, N).
        gates: Gates g of frames, (B, C, T).
        kernels: Kernels k over K neighboring frames, (B, C, K).

    Returns:
        Clips, (B, C, T, N).
    """
    return temporal_weights(gates, kernels) @ x


class TAM(nn.Module):
    """Temporal adaptive module: gates the frames of a clip and filters them with a kernel made for the clip.

        z_ct = mean_p x_ctp
        l = sigma(V2 relu(BN(V1 * z)))               local gate of each channel and frame
        k_c = softmax(W2 relu(BN(W1 z_c)))           kernel of each channel, over its K offsets
        y_ctp = sum_j k_cj l_c,t+j x_c,t+j,p

    z holds the means over positions p of each channel c in frame t. V1 is a convolution over K frames from C
    to C // 4 channels, V2 one of a single frame back to C, both in `local`. W1, from T to 2 T values, and W2,
    from 2 T to K, are linear layers that all channels share, in `kernel`. There are no biases. * is a
    convolution with zero padding, sigma the logistic function, and j runs from -(K - 1) / 2 to (K - 1) / 2.

    Recording gives gates and kernels as a `TemporalMap`, of clips for both inputs.

    References:
        Liu, Wang, Wu, Qian, Lu: TAM: Temporal Adaptive Module for Video Recognition, ICCV 2021
        (section 3).

    Args:
        channels: Number of channels C, at least 4.
        frames: Frames T of a clip; W1 has this width.
        kernel_size: Frames K that a kernel covers, odd.

    Shape:
        - Input: clips (B, C, T, H, W), or frames (B * T, C, H, W), those of one clip after another.
        - Output: same shape as the input.

    Raises:
        BadOption: If C < 4, the kernel size is even, or an option is below 1.
        BadShape: For any other input shape or number of frames; in training also for a single clip of one
            frame, which has no batch statistics.

    Note:
        Deviation: none. The authors' code takes frames; clips have the layout of 3-D networks, and save two
        copies of the input. The padding of that code is an option; here it always keeps the number of frames.

    Example:
        >>> import torch
        >>> module = TAM(32, frames=4).eval()
        >>> clips = torch.randn(2, 32, 4, 7, 5)
        >>> frames = clips.transpose(1, 2).flatten(0, 1)
        >>> y = module(frames)
        >>> torch.allclose(y.unflatten(0, (2, 4)).transpose(1, 2), module(clips), atol=1e-6)
        True
    """

    def __init__(self, channels: int, frames: int = 8, kernel_size: int = 3) -> None:
        super().__init__()
        check_positive("tam", frames=frames, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise bad_option("tam", "must be odd to keep the number of frames", kernel_size=kernel_size)
        if channels < 4:
            raise bad_option("tam", "must be at least 4", channels=channels)
        self.channels, self.frames = channels, frames
        self.kernel = nn.Sequential(
            nn.Linear(frames, 2 * frames, bias=False),
            nn.BatchNorm1d(2 * frames),
            nn.ReLU(),
            nn.Linear(2 * frames, kernel_size, bias=False),
            nn.Softmax(-1),
        )
        self.local = nn.Sequential(
            nn.Conv1d(channels, channels // 4, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm1d(channels // 4),
            nn.ReLU(),
            nn.Conv1d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        if getattr(x, "ndim", None) != 4:
            check_shape("tam", x, "B C T H W", C=self.channels, T=self.frames)
            return self._filter(x)
        check_shape("tam", x, "B*T C H W", C=self.channels)
        if x.shape[0] % self.frames:
            raise bad_shape("tam", f"expected a multiple of frames={self.frames} images", x)
        clips = x.unflatten(0, (-1, self.frames)).transpose(1, 2)
        return self._filter(clips).transpose(1, 2).reshape(x.shape)

    def _filter(self, clips: Tensor) -> Tensor:
        if self.training and clips.shape[0] * self.frames == 1:
            raise bad_shape("tam", "batch norm needs more than one frame in training", clips)
        x = clips.flatten(3)
        means = mean(x)
        gates = self.local(means)
        kernels = self.kernel(means.flatten(0, 1)).unflatten(0, means.shape[:2])
        if self.tap.recording:
            self.tap.publish(TemporalMap.of(gates, kernels, clips))
        return tam(x, gates, kernels).reshape(clips.shape)


SPEC = Spec(
    name="tam",
    domain="temporal",
    paper=Paper(
        "TAM: Temporal Adaptive Module for Video Recognition",
        "Liu, Wang, Wu, Qian, Lu",
        2021,
        "https://arxiv.org/abs/2005.06803",
    ),
    summary="gate the frames of each channel, then filter them with a kernel computed from the clip",
    module=TAM,
    function=tam,
    examples=(
        Example("B C 3 H W", {"frames": 3}),
        Example("B C 4 H W", {"frames": 4, "kernel_size": 5}),
    ),
    maps=(TemporalMap,),
    flow="clip -> [[mean -> V, sigmoid | mean -> W, softmax] -> gates, kernel | ] -> filter -> y",
)
