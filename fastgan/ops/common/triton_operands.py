"""What the kernels of a product take where they load it, in place of a tensor that nobody has stored: ``behind`` says
what, by its length.

* None: the tensor ``x`` itself.
* (after,): the gradient before an activation, of x, the one behind it; ``after`` is what the activation gave.
* (mean, rstd, weight, bias): batch norm and activation of x, by channel; zero outside the image.
* (y, mean, rstd, grad_mean, grad_rstd, count): the gradient of y, from x, that of its values, and those of its
  statistics over count values a channel: x + grad_mean / count - (y - mean) * rstd^3 * grad_rstd / count.

Tensors have the strides of x, vectors are dense."""

import triton
import triton.language as tl

from fastgan.ops.common.triton_epilogue import LEAKY_RELU, RELU, TANH, activated, narrowed


@triton.jit
def slope_of(grad, before, negative_slope, ACTIVATION: tl.constexpr):
    """The gradient before the activation from the one behind it, by the value before (relu, leaky_relu) or the one
    behind. At NaN torch's: relu passes the gradient, leaky_relu slope * gradient."""
    if ACTIVATION == RELU:
        grad = tl.where(before <= 0, 0.0, grad)
    elif ACTIVATION == LEAKY_RELU:
        grad = tl.where(before > 0, grad, grad * tl.full((), negative_slope, grad.dtype))
    elif ACTIVATION == TANH:
        grad = grad * (1.0 - before * before)
    return grad


@triton.jit
def _vector(pointer, channel, keep, ACC: tl.constexpr):
    return tl.load(pointer + channel, mask=keep, other=0.0).to(ACC)


@triton.jit
def vectors(behind, channel, keep, ACC: tl.constexpr):
    """The vectors that ``taken`` wants, at these channels (a row or a column): (mean, factor, term) of each."""
    result = (0.0, 0.0, 0.0)
    if behind is not None:
        if len(behind) == 4:
            mean, rstd = _vector(behind[0], channel, keep, ACC), _vector(behind[1], channel, keep, ACC)
            weight, bias = _vector(behind[2], channel, keep, ACC), _vector(behind[3], channel, keep, ACC)
            result = (mean, rstd * weight, bias)
        elif len(behind) == 6:
            mean, rstd = _vector(behind[1], channel, keep, ACC), _vector(behind[2], channel, keep, ACC)
            share = 1.0 / tl.full((), behind[5], ACC)
            along = _vector(behind[4], channel, keep, ACC) * rstd * rstd * rstd
            result = (mean, -share * along, share * _vector(behind[3], channel, keep, ACC))
    return result


@triton.jit
def taken(
    x, behind, by_channel, at, seen, negative_slope, ACTIVATION: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr
):
    """What stands for the loaded values x, in their type; ``at`` their offsets, ``seen`` the mask they were loaded
    with, ``by_channel`` what ``vectors`` gave for their channels."""
    if behind is not None:
        TYPE: tl.constexpr = x.dtype
        HALF: tl.constexpr = TYPE.primitive_bitwidth == 16
        wide = x.to(tl.float32) if HALF else x
        if len(behind) == 4:
            wide = activated((wide - by_channel[0]) * by_channel[1] + by_channel[2], negative_slope, ACTIVATION)
            wide = tl.where(seen, wide, 0.0)
        else:
            second = tl.load(behind[0] + at, mask=seen, other=0.0)
            second = second.to(tl.float32) if HALF else second
            if len(behind) == 1:
                wide = slope_of(wide, second, negative_slope, ACTIVATION)
            else:
                wide = wide + by_channel[2] + (second - by_channel[0]) * by_channel[1]
                wide = tl.where(seen, wide, 0.0)
        x = narrowed(wide, TYPE, UPCAST)
    return x
