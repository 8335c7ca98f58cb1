"""What tests/interpreter.py leaves out of Triton's interpreter changes nothing else of it."""

from __future__ import annotations

import pytest
import torch

import fastgan

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
language = pytest.importorskip("triton.language", reason="Triton is not installed")


def members() -> dict[str, object]:
    """What a launch replaces in the kernels' namespace and in that of tensors."""
    return {**vars(language), **{f"tensor.{name}": value for name, value in vars(language.tensor).items()}}


def upsample(count: int) -> torch.Tensor:
    """A launch whose kernel calls functions of several modules."""
    with fastgan.use_backend("triton"):
        return fastgan.functional.conv_transpose2d(torch.ones(count, 3, 2, 2), torch.ones(3, 5, 4, 4), stride=2)


def test_the_language_is_looked_through_once_per_module_and_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    looked: list[object] = []
    real = interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", lambda *args: (looked.append(args[0]), real(*args))[1])
    for _ in range(2):
        looked.clear()
        upsample(1)
        # twice if a function of Triton's own, which sees triton.language.core too, is called
        assert looked.count(language) in (1, 2) and looked.count(language.core) <= 1


def test_a_launch_leaves_the_language_as_it_was() -> None:
    upsample(1)
    before = members()
    assert upsample(2).shape == (2, 5, 6, 6)
    assert members() == before
    assert language.core.is_builtin(language.load) and language.core.is_builtin(language.tensor.to)


def test_after_a_kernel_that_failed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    expected, before = upsample(1), members()
    with monkeypatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_masked_store", lambda *_: 1 / 0)
        with pytest.raises(interpreter.InterpreterError):
            upsample(1)
    assert members() == before
    assert torch.equal(upsample(1), expected)


def test_types_are_those_that_the_interpreter_looks_up() -> None:
    from triton.runtime import interpreter

    kinds = [language.int1, language.int32, language.float16, language.bfloat16, language.float64]
    pointers = [language.pointer_type(kind) for kind in kinds]
    blocks = [language.block_type(kind, [4, 2]) for kind in (*kinds, *pointers)]
    found = [interpreter._get_np_dtype(kind).name for kind in (*kinds, *pointers, *blocks)]
    names = ["bool", "int32", "float16", "uint16", "float64", *["uint64"] * 5]
    assert found == [*names, *names]
