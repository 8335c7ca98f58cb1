"""Drop-in convolution layers; see :mod:`fastgan.functional` for the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastgan import functional
from fastgan.nn.tracing import leaf
from fastgan.ops.common import activation as _activation

__all__ = ["Conv2d", "ConvTranspose2d"]


class _Activated:
    """What a convolution applies to its output. Of the class, so that a layer has it that was made as torch's, or
    pickled before there was one."""

    activation: str = "none"
    negative_slope: float = 0.01

    def _set_activation(self, activation: str, negative_slope: float) -> None:
        _activation.parse_after_convolution(activation, negative_slope)
        self.activation = activation
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        """torch's line, then the activation if there is one."""
        line = super().extra_repr()  # type: ignore[misc]
        if self.activation == "none":
            return line
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{line}, activation={self.activation}{slope}"


class ConvTranspose2d(_Activated, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`, computed by :func:`fastgan.functional.conv_transpose2d`.

    Same constructor, parameters, state_dict keys, initial values, errors and repr. In addition ``padding="same"``
    (TensorFlow's) makes the output exactly ``input * stride``; it excludes ``output_padding`` and ``output_size``; and
    the activation after it may be part of it.

    Args:
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: slope of "leaky_relu" for values <= 0, at least 0; torch's default 0.01 (DCGAN uses 0.2).

    Shape:
        input ``[N, C_in, H, W]`` or ``[C_in, H, W]``; weight ``[C_in, C_out / groups, kH, kW]``.

    Raises:
        ValueError: a padding string other than "same", or "same" together with output_padding or output_size; an
            unknown activation or a negative slope.

    Example:
        >>> import torch
        >>> ConvTranspose2d(16, 8, 5, stride=2, padding="same")(torch.zeros(1, 16, 7, 7)).shape
        torch.Size([1, 8, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        same = isinstance(padding, str)
        if same and padding != "same":
            raise ValueError(f"Invalid padding string {padding!r}, should be 'same', an int or a pair of ints")
        if same and any(output_padding if isinstance(output_padding, tuple) else (output_padding,)):
            raise ValueError('output_padding must be 0 with padding="same": the output is exactly input * stride')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if same else padding,  # type: ignore[arg-type]
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        if same:
            self.padding = "same"
        self._set_activation(activation, negative_slope)

    @leaf
    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Args: input ``[N, C_in, H, W]`` or unbatched; output_size: 2 or 4 ints (3 if unbatched), or None."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        if isinstance(self.padding, str):
            if output_size is not None:
                raise ValueError('output_size must be None with padding="same": the output is exactly input * stride')
            output_padding = self.output_padding
        else:
            output_padding = self._output_padding(  # type: ignore[assignment]
                input,
                output_size,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.kernel_size,  # type: ignore[arg-type]
                2,
                self.dilation,  # type: ignore[arg-type]
            )
        return functional.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


class Conv2d(_Activated, nn.Conv2d):
    """:class:`torch.nn.Conv2d`, computed by :func:`fastgan.functional.conv2d`.

    Same constructor, parameters, state_dict keys, initial values, errors and repr. In addition ``padding="same"``
    (TensorFlow's) is accepted with any stride: the output is ``ceil(input / stride)``; and the activation after it may
    be part of it.

    Args:
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: slope of "leaky_relu" for values <= 0, at least 0; torch's default 0.01 (DCGAN uses 0.2).

    Shape:
        input ``[N, C_in, H, W]`` or ``[C_in, H, W]``; weight ``[C_out, C_in / groups, kH, kW]``.

    Raises:
        ValueError: "same" with a stride and a padding_mode other than "zeros"; an unknown activation or a negative
            slope.

    Example:
        >>> import torch
        >>> Conv2d(16, 32, 4, stride=2, padding="same")(torch.zeros(1, 16, 7, 7)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        # torch refuses "same" with a stride; without one its own constructor handles every padding_mode
        strided_same = padding == "same" and stride not in (1, (1, 1))
        if strided_same and padding_mode != "zeros":
            raise ValueError(f'padding="same" with a stride needs padding_mode="zeros", but got {padding_mode!r}')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if strided_same else padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        if strided_same:
            self.padding = "same"
        self._set_activation(activation, negative_slope)

    @leaf
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Args: input ``[N, C_in, H, W]`` or unbatched."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return functional.conv2d(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )
