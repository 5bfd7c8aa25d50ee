"""OUTPUT_DIR: who may write into it, and what is cleared away there."""

import json

import pytest

from randwire_det.errors import UsageError, UserError
from randwire_det.run.folder import cut_lines, locked, refuse_used


@pytest.mark.parametrize(
    "name",
    ["checkpoint_00000009.pth", "model_best.pth", "model_final.pth", "model_0000009.pth"],
)
def test_no_training_starts_over_what_either_side_has_written(tmp_path, name):
    refuse_used(tmp_path / "absent", resume=False)
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"{name} exists already: add --resume .*OUTPUT_DIR"):
        refuse_used(tmp_path, resume=False)
    refuse_used(tmp_path, resume=True)


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path):
    """Not in the folders of other runs, which may be at work."""
    half = [".model_final.pth.x.tmp", "inference/.results.json.x.tmp", "report/val/.a.html.x.tmp"]
    kept = ["model_final.pth", "inference/results.json", "other/.model_final.pth.x.tmp"]
    for name in [*half, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with locked(tmp_path):
        assert not any((tmp_path / name).exists() for name in half)
        assert all((tmp_path / name).exists() for name in kept)


def test_an_output_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=f"OUTPUT_DIR {output}"), locked(output):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "half", ["", '{"iteration": 2, "lo', '{"iteration": 2}', "\x00\x00\n", "3\n"]
)
def test_lines_are_cut_after_the_last_one_to_keep(tmp_path, half):
    path = tmp_path / "lines"
    cut_lines(path)
    assert not path.exists()
    rows = [{"iteration": each} for each in (0, 1, 1, 2, 3)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + half)
    with path.open("a") as file:  # held open by a writer, which goes on at the new end
        cut_lines(path, lambda row: row["iteration"] < 2)
        file.write('{"iteration": 9}\n')
    kept = [json.loads(line)["iteration"] for line in path.open()]
    assert kept == [0, 1, 1, 9]
