"""The run folder: nothing a user made is lost, and two runs never share one."""

from pathlib import Path

import pytest

from fastgan.training import RunError, open_run


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    with open_run(tmp_path / "runs" / "a"):
        assert (tmp_path / "runs" / "a" / "samples").is_dir()


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    with open_run(tmp_path):
        pass


def test_a_full_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("precious")
    with pytest.raises(RunError, match="is not empty"), open_run(tmp_path):
        pass
    assert (tmp_path / "checkpoint.pt").read_text() == "precious"


def test_overwrite_deletes_the_files_of_a_run_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    of_a_run = [
        tmp_path / name for name in ("checkpoint.pt", "metrics.csv", "evaluation.json", "samples/step-000010.png")
    ]
    of_the_user = [tmp_path / name for name in ("notes.txt", "samples/best.png", "backup.pt")]
    for path in of_a_run + of_the_user:
        path.write_text("x")
    with open_run(tmp_path, "overwrite"):
        assert not any(path.exists() for path in of_a_run)
        assert all(path.exists() for path in of_the_user)


def test_a_folder_in_use_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    with open_run(tmp_path):
        (tmp_path / "checkpoint.pt").write_text("precious")
        with pytest.raises(RunError, match="in use by another run"), open_run(tmp_path, "overwrite"):
            pass
        assert (tmp_path / "checkpoint.pt").read_text() == "precious"
    with open_run(tmp_path, "overwrite"):  # free again once the first has ended
        pass


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"), open_run(tmp_path / "file", "overwrite"):
        pass
