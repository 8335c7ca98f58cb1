"""Planted bugs in the kernels of a chain's links, for tests/mutants.py."""

from __future__ import annotations

_TAPS = "fastgan/ops/conv_transpose2d/triton_taps.py"
_OPERANDS = "fastgan/ops/common/triton_operands.py"
_STATISTICS = "fastgan/ops/common/triton_statistics.py"
_KERNELS = "fastgan/ops/conv_transpose2d/triton_kernels.py"
_LAUNCH = "fastgan/ops/conv_transpose2d/chain/triton_launch.py"
_TESTS = "tests/ops/test_triton_chain.py"

#: (name, file, old, new, tests)
# fmt: off
MUTANTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("padding_is_normalised", _OPERANDS,
     "            wide = tl.where(seen, wide, 0.0)\n        else:", "        else:",
     f"{_TESTS} -k 'activations and leaky'"),
    ("gradient_outside_the_image", _OPERANDS,
     "by_channel[1]\n                wide = tl.where(seen, wide, 0.0)", "by_channel[1]",
     f"{_TESTS} -k 'activations and leaky'"),
    ("deviations_count_once_too_little", _OPERANDS,
     "* rstd * rstd * rstd", "* rstd * rstd",
     f"{_TESTS} -k 'activations and leaky'"),
    ("gradient_along_the_wrong_way", _OPERANDS,
     "(mean, -share * along, share", "(mean, share * along, share",
     f"{_TESTS} -k 'activations and leaky'"),
    ("channels_of_the_first_group", _KERNELS,
     "vectors(behind, (group * cs + source + k)[None, :]", "vectors(behind, (source + k)[None, :]",
     f"{_TESTS} -k 'geometries and groups'"),
    ("first_channels_at_every_step", _KERNELS,
     "vectors(behind, (group * cb + source + k)[None, :]", "vectors(behind, (group * cb + k)[None, :]",
     f"{_TESTS} -k 'every_tile and 20'"),
    ("statistics_count_the_tail", _STATISTICS,
     "above = tl.where(there, wide - mean[None, :], 0.0)", "above = wide - mean[None, :]",
     f"{_TESTS} -k 'geometries and tails'"),
    ("statistics_of_what_is_not_stored", _STATISTICS,
     "rounded(acc, output_ptr, UPCAST).to(ACC), 0.0)", "acc, 0.0)",
     f"{_TESTS} -k 'rounded'"),
    ("tiles_between_are_forgotten", _STATISTICS,
     "off * (2.0 * rest + rows[:, None] * off)", "0.0",
     f"{_TESTS} -k 'geometries and tails'"),
    ("rest_of_a_tiles_mean_is_lost", _STATISTICS,
     "total += rows[:, None] * off + rest", "total += rows[:, None] * off",
     f"{_TESTS} -k 'far_from_zero'"),
    ("running_variance_of_a_chain_is_biased", _STATISTICS,
     "var * (count / tl.maximum(count - 1.0, 1.0))", "var",
     f"{_TESTS} -k running"),
    ("sums_of_the_gradient_behind_the_scale", _STATISTICS,
     "tl.store(at, tl.sum(grad, 0), mask=kept)", "tl.store(at, tl.sum(grad * by_channel[1], 0), mask=kept)",
     f"{_TESTS} -k 'activations and leaky'"),
    ("only_the_first_step_of_tiles_is_merged", _STATISTICS,
     "        sums += tl.load(at,", "        sums = tl.load(at,",
     f"{_TESTS} -k merge_takes"),
    ("gradient_of_the_mean_without_the_weight", _STATISTICS,
     "(-rstd * weight * total)", "(-rstd * total)",
     f"{_TESTS} -k 'activations and leaky'"),
    ("splits_of_a_link_without_the_bias", _STATISTICS,
     "    if bias_ptr is not None:", "    if bias_ptr is None:",
     f"{_TESTS} -k 'every_tile and 20'"),
    ("channels_beside_in_every_split", _KERNELS,
     "h, skip_h, tl.where(split == 0, count_h, 0), first_h", "h, skip_h, count_h, first_h",
     f"{_TESTS} -k 'beside_in_splits and conv_transpose2d'"),
    ("channels_beside_by_the_first_weights", _KERNELS,
     "more = weight_ptr + tl.full((), cb, OFFSET) * wt_b + channel", "more = weight_ptr + channel",
     f"{_TESTS} -k 'beside_those and layer and conv2d'"),
    ("channels_beside_outside_the_image", _TAPS,
     "inside = pixel & (i_h >= 0) & (i_h < size_h) &", "inside = pixel & (i_h < size_h) &",
     f"{_TESTS} -k 'beside_those and layer'"),
    ("first_channel_beside_for_all", _TAPS,
     "n * image_n + c * image_c + i_h", "n * image_n + i_h",
     f"{_TESTS} -k 'beside_those and layer and 3'"),
    ("weights_beside_in_the_wrong_half", _LAUNCH,
     "torch.cat(parts, 0 if transposed else 1)", "torch.cat(parts[::-1], 0 if transposed else 1)",
     f"{_TESTS} -k 'beside_those and layer'"),
    ("vectors_of_any_stride_read_as_dense", _LAUNCH,
     "return mean.contiguous(), rstd.contiguous(),", "return mean, rstd,",
     f"{_TESTS} -k 'operands and mixed'"),
)
# fmt: on
