# SPDX-License-Identifier: Apache-2.0
"""Every bad input of `prestissimo generate`: one line on standard error, a non-zero exit, nothing written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prestissimo import audio
from prestissimo.cli import run

LONG = "x" * 5000


@pytest.fixture
def generate(tiny_model, tmp_path, monkeypatch, capsys):
    """Runs `generate` in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRESTISSIMO_DEBUG", raising=False)

    def call(*arguments: str, model: str | None = None):
        code = run(["generate", "--model", model or str(tiny_model), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "prompt must not be empty"),
        (["   "], "prompt must not be empty"),
        ([LONG], "prompt must be at most 2000 characters, got 5000"),
        ([], "give a PROMPT or --prompts FILE, one of the two"),
        (["calm", "--prompts", "absent.txt"], "give a PROMPT or --prompts FILE, one of the two"),
        (["--prompts", "absent.txt"], "absent.txt: No such file or directory"),
        (["calm", "--seconds", "0"], "seconds must be above 0, got 0"),
        (["calm", "--seconds", "-3"], "seconds must be above 0, got -3"),
        (["calm", "--seconds", "nan"], "seconds must be finite, got nan"),
        (["calm", "--seconds", "inf"], "seconds must be finite, got inf"),
        (["calm", "--seconds", "1e9"], "seconds must be at most"),
        (["calm", "--seconds", "long"], "--seconds"),
        (["calm", "--bpm", "9"], "bpm must be 0 or 30 to 300, got 9"),
        (["calm", "--bpm", "120"], "bpm: the model 'tiny' takes no tempo"),
        (["calm", "--steps", "0"], "steps must be 1 to 1000, got 0"),
        (["calm", "--guidance", "-1"], "guidance must be 0 to 100, got -1"),
        (["calm", "--guidance", "nan"], "guidance must be finite, got nan"),
        (["calm", "--sampler", "rk4"], "sampler must be one of euler, heun, dpm2, dpmpp_2s, dpmpp_2m, ddim"),
        (["calm", "--seed", "-1"], "seed must be 0 to"),
        (["calm", "--seed", "99999999999999999999"], "seed must be 0 to"),
        (["calm", "--num", "0"], "num must be 1 or more, got 0"),
        (["calm", "--threads", "0"], "threads must be a positive integer, got 0"),
        (["calm", "--dtype", "int4"], "dtype must be one of float32, bfloat16 on cpu, got 'int4'"),
        (["calm", "--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["calm", "--lufs", "5"], "lufs must be between -70 and 0, got 5"),
        (["calm", "--lufs", "-14", "--seconds", "0.3"], "lufs is defined for 0.4 s or more, got 0.3 s"),
        (["calm", "--format", "aac"], "format must be one of wav, flac, mp3, opus, ogg, got 'aac'"),
        (["calm", "-o", "song.xyz"], "cannot tell the audio format of 'song.xyz'"),
        (["calm", "-o", "song.mp3", "--bit-depth", "24"], "bit_depth '24' does not go with mp3"),
        (["calm", "-o", "absent/song.wav"], "absent: the folder to write into does not exist"),
        (["calm", "--init-audio", "absent.wav"], "absent.wav: No such file or directory"),
        (["calm", "--strength", "0"], "strength must be above 0 and at most 1, got 0"),
        (["calm", "--no-such-option"], "--no-such-option"),
    ],
)
def test_wrong_options(generate, tmp_path, arguments, message):
    code, out, err = generate(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("prestissimo: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_refused_then_replaced(generate, tmp_path):
    (tmp_path / "out.wav").write_bytes(b"mine")
    code, _, err = generate("calm", "--seconds", "0.5")
    assert code == 2
    assert "out.wav: the file exists already" in err
    assert "--overwrite" in err
    assert (tmp_path / "out.wav").read_bytes() == b"mine"
    assert generate("calm", "--seconds", "0.5", "--overwrite")[0] == 0
    assert audio.read(tmp_path / "out.wav").shape == (2, 22050)


def test_wrong_initial_audio(generate, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    audio.write(tmp_path / "slow.wav", np.ones((2, 8000), np.float32) * 0.1, 16000)
    code, _, err = generate("calm", "--init-audio", "text.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert "text.wav: not a readable audio file" in err
    code, _, err = generate("calm", "--init-audio", "slow.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert "slow.wav: is sampled at 16000 Hz, 44100 Hz is needed; --resample converts it" in err
    assert not (tmp_path / "out.wav").exists()
    assert generate("calm", "--init-audio", "slow.wav", "--resample", "--quiet")[0] == 0


def test_wrong_models(generate, tiny_model, tmp_path):
    code, _, err = generate("calm", model="maxi")
    assert (code, err.count("\n")) == (2, 1)
    assert "model must be a bundled one" in err
    assert "'maxi'" in err
    (tmp_path / "empty").mkdir()
    code, _, err = generate("calm", model="empty")
    assert (code, err.count("\n")) == (2, 1)
    assert "empty" in err


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["text.safetensors", "codec.safetensors", "dit.safetensors", "config.json"])
@pytest.mark.parametrize(
    "damage", [_cut, _flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
def test_damaged_weights(generate, tiny_model, tmp_path, name, damage):
    if name == "config.json" and damage is _flip:
        pytest.skip("one bit of a text file may leave it valid")
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy / name)
    code, _, err = generate("calm", model="model")
    assert (code, err.count("\n")) == (2, 1), err
    assert name in err
    assert not (tmp_path / "out.wav").exists()


def test_weights_of_another_part(generate, tiny_model, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "dit.safetensors").write_bytes((tiny_model / "codec.safetensors").read_bytes())
    code, _, err = generate("calm", model="model")
    assert (code, err.count("\n")) == (2, 1), err
    assert "dit.safetensors" in err


def test_a_mistake_in_a_late_row_costs_no_work(generate, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,seconds\ncalm,0.5\nfast,1e9\n")
    code, _, err = generate("--prompts", "prompts.csv", "-o", "./")
    assert code == 2
    assert "seconds must be at most" in err
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.csv"]


def test_warnings_are_one_line_unless_quiet(generate):
    settings = ("--seconds", "0.3", "--guidance", "1", "--negative-prompt", "drums", "--overwrite")
    assert generate("calm", *settings)[2].startswith("prestissimo: warning: negative_prompt has no effect")
    assert generate("calm", *settings, "--quiet")[2] == ""


def test_silence_is_written_though_it_has_no_loudness(generate, tmp_path, monkeypatch):
    from prestissimo.nn import MelCodec

    decode = MelCodec.decode_waveform
    monkeypatch.setattr(
        MelCodec, "decode_waveform", lambda self, x, **settings: 0 * decode(self, x, **settings)
    )
    code, _, err = generate("calm", "--seconds", "0.5", "--lufs", "-14")
    assert code == 0
    assert "the audio is silent" in err
    assert not audio.read(tmp_path / "out.wav").any()


def test_unknown_commands(capsys):
    assert run(["generat"]) == 2
    assert "No such command 'generat'" in capsys.readouterr().err


def test_debugging_lets_the_traceback_through(generate, monkeypatch):
    monkeypatch.setenv("PRESTISSIMO_DEBUG", "1")
    with pytest.raises(ValueError, match="seconds must be above 0"):
        generate("calm", "--seconds", "0")


def test_a_failure_of_a_later_piece_reports_the_earlier_ones(generate, tmp_path, monkeypatch):
    encode, calls = audio.encode, []

    def fails_second(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return encode(*arguments, **settings)

    monkeypatch.setattr(audio, "encode", fails_second)
    code, out, err = generate("calm", "--seconds", "0.5", "-n", "3", "--json")
    assert code == 1
    assert "out of memory" in err
    assert [entry["file"] for entry in json.loads(out)["outputs"]] == ["out-1.wav"]
    assert [p.name for p in tmp_path.iterdir()] == ["out-1.wav"]
