"""Planted bugs in the measured choices; what they are is told in tests/mutants.py, whose list they are part of."""

from __future__ import annotations

_CONV = "fastgan/ops/conv_transpose2d"
_T_TUNING = "tests/tuning/test_autotune.py"
_T_NEVER = "tests/tuning/test_never_timed.py"
_T_STORE = "tests/tuning/test_store.py"

# fmt: off
MUTANTS: tuple[tuple[str, str, str, str, str], ...] = (
    # (name, file, old, new, tests)
    ("the_slowest_is_chosen", "fastgan/tuning/tables.py",
     "sorted(times, key=times.__getitem__)", "sorted(times, key=times.__getitem__, reverse=True)",
     f"{_T_TUNING} -k 'fastest'"),
    ("tables_beat_a_forced_backend", "fastgan/dispatch.py",
     "    if _forced is not None:\n        reason = _reason(op, _forced, args)",
     "    if _forced is not None and _tables is None:\n        reason = _reason(op, _forced, args)",
     f"{_T_TUNING} -k forced"),
    ("batches_of_one_class_are_timed_again", f"{_CONV}/tuning_key.py",
     "return (batch - 1).bit_length() if batch else -1", "return batch",
     f"{_T_TUNING} -k new_one"),
    ("threads_do_not_count", "fastgan/tuning/machine.py",
     "return (torch.get_num_threads(),)", "return ()",
     f"{_T_TUNING} -k new_one"),
    ("a_gradient_is_timed_as_the_map_it_is", "fastgan/tuning/tables.py",
     'if backend.name != "reference" or instead is None:', "if True:",
     f"{_T_TUNING} -k gradients"),
    ("the_interpreter_is_timed", "fastgan/tuning/tables.py",
     'interpreted = backend.name == "triton" and triton_runtime.interpreting()', "interpreted = False",
     f"{_T_TUNING} -k interpreter"),
    ("errors_of_a_candidate_swallowed", "fastgan/tuning/tables.py",
     "                times = timing.measure(runs, device)\n",
     "                try:\n                    times = timing.measure(runs, device)\n"
     "                except ArithmeticError:\n                    return\n",
     f"{_T_TUNING} -k raises"),
    ("watched_calls_are_timed", "fastgan/dispatch.py",
     "def _run(op: str, *args: Any) -> Any:\n",
     "def _run(op: str, *args: Any) -> Any:\n    if _measure is not None:\n        _measure(op, args, False, None)\n",
     _T_NEVER),
    ("captured_calls_are_timed", "fastgan/tuning/tables.py",
     "return not torch.cuda.is_current_stream_capturing()", "return True",
     f"{_T_NEVER} -k captured"),
    ("calls_left_to_torch_are_remembered", f"{_CONV}/small.py",
     "dispatch.remembered.append(_known)\n", "",
     f"{_T_TUNING} -k left_to_torch"),
    ("torch_is_timed_with_gradients_nobody_wants", f"{_CONV}/small.py",
     "(*wanted, False)", "(True, True, False)",
     f"{_T_TUNING} -k asked_for"),
    ("the_table_is_not_locked", "fastgan/tuning/store.py",
     "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
     f"{_T_STORE} -k 'durable or four_processes'"),
    ("the_others_entries_are_lost", "fastgan/tuning/store.py",
     "together = merged(found, entries)", "together = dict(entries)",
     f"{_T_STORE} -k 'older or four_processes'"),
    ("a_bad_table_is_overwritten", "fastgan/tuning/store.py",
     "            os.replace(path, aside)\n", "",
     f"{_T_STORE} -k aside"),
    ("times_of_another_machine_are_used", "fastgan/tuning/store.py",
     'if content.get("identity") != identity:', "if False:",
     f"{_T_STORE} -k aside"),
)
# fmt: on
