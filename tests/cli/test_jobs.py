# SPDX-License-Identifier: Apache-2.0
"""Options and prompts files become requests and file names; every mistake is named before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from prestissimo.cli.jobs import Row, make_folder, plan, read_prompts

CALM = [Row({"prompt": "calm solo piano"}, "")]


def paths(jobs):
    return [job.path.name for job in jobs]


def test_text_files_hold_one_prompt_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffcalm piano\r\n\r\n# a remark\n  fast techno  \n静かなピアノ\n".encode())
    assert [row.fields["prompt"] for row in read_prompts(file)] == [
        "calm piano",
        "fast techno",
        "静かなピアノ",
    ]
    assert read_prompts(file)[1].where == f"{file}:4"


def test_csv_files_set_any_field_of_a_row(tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text(
        'Prompt,seconds,seed,guidance,strength,bpm\n"calm, slow piano",7.5,3,,,\ntechno,,,2.5,0.4,128\n'
    )
    jobs = plan(read_prompts(file), {"guidance": 4.0, "seconds": 12.0}, seed=100, output=f"{tmp_path}/")
    first, second = (job.request for job in jobs)
    assert (first.prompt, first.seconds, first.seed, first.guidance) == ("calm, slow piano", 7.5, 3, 4.0)
    assert (second.seconds, second.seed, second.guidance, second.init_strength) == (12.0, 101, 2.5, 0.4)
    assert (first.bpm, second.bpm) == (None, 128.0)


def test_a_folder_is_made_where_the_name_says_that_it_is_one(tmp_path):
    (job,) = plan(CALM, {}, seed=7, output=f"{tmp_path}/takes/")
    assert job.path.parent == tmp_path / "takes"
    assert not (tmp_path / "takes").exists()  # not before the rest is known to be right
    make_folder([job])
    assert (tmp_path / "takes").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        plan(CALM, {}, seed=7, output=f"{tmp_path}/file/")
    with pytest.raises(FileNotFoundError):
        plan(CALM, {}, seed=7, output=f"{tmp_path}/absent/takes/")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n# only a remark\n", "holds no prompts"),
        ("a.csv", "text,seed\nx,1\n", "must name a column 'prompt'"),
        ("a.csv", "prompt,tempo\nx,1\n", "among prompt, seconds"),
        ("a.csv", "prompt,seed\nx,1,2\n", "a.csv:2: has not as many fields"),
        ("a.csv", "prompt,seed\nx\n", "a.csv:2: has not as many fields"),
        ("a.csv", "prompt,seed\nx,one\n", "a.csv:2: seed must be a number, got 'one'"),
        ("a.csv", 'prompt\n"x\n', "a.csv: unexpected end of data"),
    ],
)
def test_files_that_are_wrong_say_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_files_that_are_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"calm \xff")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_prompts(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seconds": "nan"}, "a.csv:2: seconds must be finite"),
        ({"steps": "0"}, "a.csv:2: steps must be 1 to 1000, got 0"),
        ({"guidance": "-1"}, "a.csv:2: guidance must be 0 to 100"),
        ({"strength": "2"}, "a.csv:2: strength must be above 0 and at most 1"),
        ({"seed": "-1"}, "a.csv:2: seed must be 0 to"),
    ],
)
def test_rows_that_are_wrong_say_where(tmp_path, fields, message):
    file = tmp_path / "a.csv"
    file.write_text(f"prompt,{','.join(fields)}\nx,{','.join(fields.values())}\n")
    with pytest.raises(ValueError, match=message):
        plan(read_prompts(file), {}, seed=1, output=f"{tmp_path}/")


def test_one_piece_goes_to_the_file_itself(tmp_path):
    (job,) = plan(CALM, {}, seed=7, output=str(tmp_path / "a.flac"), plot=True)
    assert (job.path, job.format.name, job.picture) == (tmp_path / "a.flac", "flac", tmp_path / "a.png")
    assert job.request.seed == 7


def test_several_pieces_are_numbered_and_their_seeds_count_up(tmp_path):
    jobs = plan(CALM, {}, seed=7, output=str(tmp_path / "a.wav"), number=10)
    assert paths(jobs)[:2] == ["a-01.wav", "a-02.wav"]
    assert [job.request.seed for job in jobs] == list(range(7, 17))
    jobs = plan([*CALM, Row({"prompt": "x", "seed": 90}, "")], {}, seed=7, output=f"{tmp_path}/", number=2)
    assert [job.request.seed for job in jobs] == [7, 8, 90, 91]


def test_folders_are_filled_with_names_from_prompts(tmp_path):
    rows = [
        *CALM,
        Row({"prompt": "静か/../$HOME", "seed": 5}, ""),
        Row({"prompt": "!"}, ""),
        Row({"prompt": "x" * 500}, ""),
    ]
    jobs = plan(rows, {}, seed=7, output=str(tmp_path), format="mp3")
    assert paths(jobs) == ["calm-solo-piano-7.mp3", "静か-home-5.mp3", "music-9.mp3", f"{'x' * 60}-10.mp3"]
    twice = plan([Row({"prompt": "x", "seed": 1}, "")] * 2, {}, seed=0, output=f"{tmp_path}/")
    assert len(set(paths(twice))) == 2


def test_standard_output_takes_one_piece():
    (job,) = plan(CALM, {}, seed=7, output="-", format="flac")
    assert (job.path, job.format.name) == (None, "flac")
    with pytest.raises(ValueError, match="one piece, 2 were asked for"):
        plan(CALM, {}, seed=7, output="-", number=2)
    with pytest.raises(ValueError, match="--plot needs a file"):
        plan(CALM, {}, seed=7, output="-", plot=True)


def test_mistakes_are_found_before_any_work(tmp_path):
    (tmp_path / "a-2.wav").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a-2\.wav"):
        plan(CALM, {}, seed=7, output=str(tmp_path / "a.wav"), number=3)
    assert len(plan(CALM, {}, seed=7, output=str(tmp_path / "a.wav"), number=3, overwrite=True)) == 3
    with pytest.raises(FileNotFoundError):
        plan(CALM, {}, seed=7, output=str(tmp_path / "absent" / "a.wav"))
    with pytest.raises(FileNotFoundError):
        plan(CALM, {}, seed=7, output=f"{tmp_path}/absent/deep/")
    for settings, message in [
        ({"output": "a.txt"}, "cannot tell the audio format"),
        ({"output": "takes"}, "a folder's in /"),
        ({"output": ""}, "output must be"),
        ({"output": "a.wav", "format": "flac"}, "format flac does not go with the name 'a.wav'"),
        ({"output": "a.mp3", "bit_depth": "24"}, "bit_depth '24' does not go with mp3"),
        ({"output": "a.wav", "number": 0}, "num must be 1 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(CALM, {}, seed=7, **settings)
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a-2.wav"]
