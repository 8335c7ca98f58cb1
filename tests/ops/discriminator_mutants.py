"""Planted bugs in the discriminator's loss, for tests/mutants.py. Those in its CUDA kernels are planted in the
emulator's program (test_emulated_discriminator_loss.py)."""

from __future__ import annotations

_SLICE = "fastgan/ops/bce_with_logits"
_TESTS = "tests/ops/test_discriminator_loss.py"

#: (name, file, old, new, tests)
# fmt: off
MUTANTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("fake_logits_against_the_real_target", f"{_SLICE}/triton_kernels.py",
     "fake_gradient_ptr, 0.0, per_fake,", "fake_gradient_ptr, real_target, per_fake,",
     f"{_TESTS} -k 'values and triton'"),
    ("fake_gradient_over_the_real_number", f"{_SLICE}/triton_kernels.py",
     "grad_output * tl.full((), per_fake, ACC)", "grad_output * tl.full((), per_real, ACC)",
     f"{_TESTS} -k 'values and triton'"),
    ("last_tile_of_the_longer_not_scaled", f"{_SLICE}/triton_launch.py",
     "[(cdiv(max(sizes), BLOCK),)](", "[(cdiv(min(sizes), BLOCK),)](",
     f"{_TESTS} -k 'values and triton'"),
    ("what_hooks_have_seen_is_scaled", f"{_SLICE}/discriminator_autograd.py",
     "if ctx.may_overwrite and is_last_use():", "if is_last_use():",
     f"{_TESTS} -k hooks"),
    ("kept_graph_is_scaled_in_place", f"{_SLICE}/discriminator_autograd.py",
     "if ctx.may_overwrite and is_last_use():", "if ctx.may_overwrite:",
     f"{_TESTS} -k retain"),
    ("second_derivative_of_a_constant", f"{_SLICE}/discriminator_autograd.py",
     "if not forward_mode.differentiable_backward():", "if True:",
     f"{_TESTS} -k every_order"),
    ("one_op_under_transforms", f"{_SLICE}/discriminator_autograd.py",
     "real.dtype != fake.dtype or forward_mode.transformed()", "real.dtype != fake.dtype",
     f"{_TESTS} -k transforms"),
    ("two_dtypes_in_one_op", f"{_SLICE}/discriminator_autograd.py",
     "real.dtype != fake.dtype or forward_mode", "forward_mode",
     f"{_TESTS} -k two_dtypes"),
)
# fmt: on
