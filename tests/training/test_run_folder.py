"""The run folder: nothing a user made is lost, and two runs never share one."""

from pathlib import Path

import pytest
import torch

from fastgan.training import RunError, open_run, read_run_json, write_run_json
from tests.training.runs import config_of, noise_set


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
        tmp_path / name
        for name in ("run.json", "checkpoint.pt", "metrics.csv", "evaluation.json", "samples/step-000010.png")
    ]
    of_the_user = [
        tmp_path / name for name in ("notes.txt", "samples/best.png", "samples/step-best.png", "backup.pt", ".mine.tmp")
    ]
    for path in of_a_run + of_the_user:
        path.write_text("x")
    with open_run(tmp_path, "overwrite"):
        assert not any(path.exists() for path in of_a_run)
        assert all(path.exists() for path in of_the_user)


def test_a_folder_in_use_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    with open_run(tmp_path):
        (tmp_path / "run.json").write_text("{}")
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


def test_overwrite_and_resume_want_a_run(tmp_path: Path) -> None:
    """What is called as a run calls its files may be another program's."""
    (tmp_path / "checkpoint.pt").write_text("precious")
    for mode in ("overwrite", "resume"):
        with pytest.raises(RunError, match="is not the folder of a run"), open_run(tmp_path, mode):  # type: ignore[arg-type]
            pass
    assert (tmp_path / "checkpoint.pt").read_text() == "precious"


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    with open_run(tmp_path):
        (tmp_path / "run.json").write_text("{}")
    left = [tmp_path / ".checkpoint.pt.123.tmp", tmp_path / "samples" / ".step-000010.png.9.tmp"]
    for path in left:
        path.write_text("half")
    with open_run(tmp_path, "resume"):
        assert not any(path.exists() for path in left)


def test_a_lock_alone_is_an_empty_folder(tmp_path: Path) -> None:
    """What is left of a run that failed before it wrote anything."""
    (tmp_path / ".lock").write_text("")
    with open_run(tmp_path):
        pass


def test_run_json_names_every_process(tmp_path: Path) -> None:
    config = config_of()
    write_run_json(tmp_path, config, noise_set())
    _, record = read_run_json(tmp_path)
    write_run_json(tmp_path, config_of(steps=9), noise_set(), record, after_step=5)
    again, record = read_run_json(tmp_path)
    assert again.steps == 9
    assert [process["after_step"] for process in record["processes"]] == [0, 5]
    assert record["processes"][1]["torch"] == torch.__version__
    assert record["processes"][1]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": 3}', '{"config": {"model": "gan", "data": 4}}', "\\xff"]
)
def test_a_damaged_run_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode().replace(b"\\xff", b"\xff"))
    with pytest.raises(RunError, match=r"run\.json"):
        read_run_json(tmp_path)
