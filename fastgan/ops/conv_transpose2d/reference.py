"""The three maps in plain torch, and the two textbook definitions that judge everything else.

torch's own convolution takes symmetric, non-negative padding. Where the geometry has that form it is called as it is
(cuDNN on a GPU, oneDNN on a CPU); otherwise the image is padded or cropped explicitly around it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format

_NO_PADDING = (0, 0)


def _spans(kernel: Pair, geometry: Geometry) -> Pair:
    return tuple(d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel, strict=True))


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Transposed convolution of a small image [N, C_in, h, w] into a big one [N, C_out, H, W]; weight
    [C_in, C_out / groups, kh, kw]."""
    stride, padding, dilation, groups = geometry
    full = [
        (i - 1) * s + e for i, s, e in zip(input.shape[2:], stride, _spans(weight.shape[2:], geometry), strict=True)
    ]
    extra = [o - (f - 2 * p) for o, f, p in zip(output_size, full, padding, strict=True)]
    legal = all(p >= 0 and 0 <= e < max(s, d) for p, e, s, d in zip(padding, extra, stride, dilation, strict=True))
    if legal and all(f > 2 * p for f, p in zip(full, padding, strict=True)) and min(output_size) > 0:
        return F.conv_transpose2d(input, weight, bias, stride, padding, extra, groups, dilation)
    # The full stamp, then crop (negative pad) or fill with zeros to the size asked for.
    output = F.conv_transpose2d(input, weight, None, stride, _NO_PADDING, _NO_PADDING, groups, dilation)
    (before_h, before_w), (full_h, full_w), (height, width) = padding, full, output_size
    margins = (-before_w, width + before_w - full_w, -before_h, height + before_h - full_h)
    output = _pad(output, margins)
    if bias is not None:
        output = output + bias.view(-1, 1, 1)
    return output.contiguous(memory_format=output_memory_format(input, weight))


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Strided convolution of a big image [N, C_in, H, W] into a small one [N, C_out, h, w]; weight
    [C_out, C_in / groups, kh, kw]."""
    padded, padding = _explicit_padding(input, weight.shape[2:], output_size, geometry)
    if padded.numel() == 0 or min(output_size) == 0:
        # torch refuses images without pixels; the gradient of an output without pixels is one
        output = input.new_zeros(input.shape[0], weight.shape[0], *output_size)
        output = output if bias is None else output + bias.view(-1, 1, 1)
    else:
        output = F.conv2d(padded, weight, bias, geometry.stride, padding, geometry.dilation, geometry.groups)
    return output.contiguous(memory_format=output_memory_format(input, weight))


def conv2d_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, geometry: Geometry) -> torch.Tensor:
    """The map that both weight gradients are: [C_small, C_big / groups, kh, kw] from the two images,
    ``out[a, b, k] = sum over n, i of small[n, a, i] * big[n, b, i * stride - padding + k * dilation]``."""
    shape = (small.shape[1], big.shape[1] // geometry.groups, *kernel_size)
    if small.numel() == 0 or big.numel() == 0:
        return small.new_zeros(shape)
    padded, padding = _explicit_padding(big, kernel_size, small.shape[2:], geometry)
    stride, _, dilation, groups = geometry
    weight = small.new_empty(shape)  # only its sizes are read
    return torch.ops.aten.convolution_backward(
        small, padded, weight, None, stride, padding, dilation, False, _NO_PADDING, groups, (False, True, False)
    )[1]


def gradient(
    grad_output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    input_size: Pair,
    kernel_size: Pair,
    geometry: Geometry,
    transposed: bool,
    of_input: bool,
) -> torch.Tensor | None:
    """The gradient of a convolution's input, or else of its weight, by torch's own backward; None where torch's
    convolution has not this geometry. Of the operand whose gradient it is only the sizes and the layout are read: it
    may be None."""
    stride, padding, dilation, groups = geometry
    small, big = (input_size, grad_output.shape[2:]) if transposed else (grad_output.shape[2:], input_size)
    sizes = zip(small, big, stride, padding, _spans(kernel_size, geometry), strict=True)
    extra = tuple(o - ((i - 1) * s + e - 2 * p) for i, o, s, p, e in sizes)
    limits = map(max, stride, dilation) if transposed else stride
    if not all(0 <= e < limit for e, limit in zip(extra, limits, strict=True)):
        return None
    if input is None:
        assert weight is not None
        channels = weight.shape[0] if transposed else weight.shape[1] * groups
        input = _empty((grad_output.shape[0], channels, *input_size), grad_output, weight)
    if weight is None:
        of_small, of_big = (input, grad_output) if transposed else (grad_output, input)
        weight = _empty((of_small.shape[1], of_big.shape[1] // groups, *kernel_size), grad_output, input)
    output_padding = extra if transposed else _NO_PADDING
    shared = (stride, padding, dilation, transposed, output_padding, groups, (of_input, not of_input, False))
    gradients = torch.ops.aten.convolution_backward(grad_output, input, weight, None, *shared)
    found, other = (gradients[0], weight) if of_input else (gradients[1], input)
    return found.contiguous(memory_format=output_memory_format(grad_output, other))


def _empty(shape: Pair, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    memory_format = output_memory_format(first, second)
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=memory_format)


def _explicit_padding(
    big: torch.Tensor, kernel: Pair, small_size: Pair, geometry: Geometry
) -> tuple[torch.Tensor, Pair]:
    """(image, padding) such that torch's symmetric convolution of it gives exactly ``small_size``."""
    spans = _spans(kernel, geometry)
    sizes = [
        (i + 2 * p - e) // s + 1 if i + 2 * p >= e else 0
        for i, p, e, s in zip(big.shape[2:], geometry.padding, spans, geometry.stride, strict=True)
    ]
    if sizes == list(small_size) and min(geometry.padding) >= 0:
        return big, geometry.padding
    (before_h, before_w) = geometry.padding
    after_h, after_w = (
        (o - 1) * s + e - i - p
        for o, s, e, i, p in zip(small_size, geometry.stride, spans, big.shape[2:], geometry.padding, strict=True)
    )
    return _pad(big, (before_w, after_w, before_h, after_h)), _NO_PADDING


def _pad(image: torch.Tensor, margins: tuple[int, int, int, int]) -> torch.Tensor:
    """``F.pad`` by (left, right, top, bottom) that may also crop, even more than there is."""
    left, right, top, bottom = margins
    first_row, last_row, *rows = _kept(image.shape[2], top, bottom)
    first_column, last_column, *columns = _kept(image.shape[3], left, right)
    image = image[:, :, first_row:last_row, first_column:last_column]
    return F.pad(image, (*columns, *rows)) if any((*columns, *rows)) else image


def _kept(size: int, before: int, after: int) -> tuple[int, int, int, int]:
    """(first, end) of what is kept of one axis, and the zeros before and after it."""
    first = min(max(-before, 0), size)
    end = max(min(size + after, size), first)
    zeros = min(max(before, 0), size + before + after)
    return first, end, zeros, size + before + after - zeros - (end - first)


def conv_transpose2d_scatter(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Definition 1 of the transposed convolution: every input pixel stamps ``pixel * kernel`` onto the output at the
    stride; overlaps add; the padding crops the border. Loops over taps; meant for reading and as a judge."""
    stride, padding, dilation, groups = geometry
    batch, in_channels, height, width = input.shape
    per_group = weight.shape[1]
    output = input.new_zeros(batch, per_group * groups, *output_size)
    pixels = input.view(batch, groups, in_channels // groups, height, width)
    taps = weight.view(groups, in_channels // groups, per_group, *weight.shape[2:])
    for kh in range(weight.shape[2]):
        for kw in range(weight.shape[3]):
            stamp = torch.einsum("ngchw,gcd->ngdhw", pixels, taps[..., kh, kw]).reshape(batch, -1, height, width)
            for i in range(height):
                o_h = i * stride[0] - padding[0] + kh * dilation[0]
                if not 0 <= o_h < output_size[0]:
                    continue
                for j in range(width):
                    o_w = j * stride[1] - padding[1] + kw * dilation[1]
                    if 0 <= o_w < output_size[1]:
                        output[:, :, o_h, o_w] += stamp[:, :, i, j]
    return output if bias is None else output + bias.view(-1, 1, 1)


def conv_transpose2d_gather(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """Definition 2 of the transposed convolution: insert ``z = stride - 1`` zeros between the pixels, pad by
    ``p' = dilation * (k - 1) - padding``, convolve at stride 1 with the flipped kernel."""
    stride, padding, dilation, groups = geometry
    batch, in_channels, height, width = input.shape
    spread = input.new_zeros(batch, in_channels, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    spread[:, :, :: stride[0], :: stride[1]] = input
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    before_h, before_w = (r - p for r, p in zip(reach, padding, strict=True))
    after_h, after_w = (
        o + r - before - size
        for o, r, before, size in zip(output_size, reach, (before_h, before_w), spread.shape[2:], strict=True)
    )
    padded = _pad(spread, (before_w, after_w, before_h, after_h))
    flipped = weight.flip(2, 3).view(groups, in_channels // groups, *weight.shape[1:]).transpose(1, 2)
    kernel = flipped.reshape(groups * weight.shape[1], in_channels // groups, *weight.shape[2:])
    return F.conv2d(padded, kernel, bias, 1, 0, dilation, groups)
