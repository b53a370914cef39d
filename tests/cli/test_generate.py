# SPDX-License-Identifier: Apache-2.0
"""`prestissimo generate` with a tiny random model: files, reports, reproducibility, process behaviour."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from prestissimo import audio
from prestissimo.cli import run
from prestissimo.models.checkpoint import save_checkpoint
from prestissimo.models.config import assemble_model, load_model

RATE = 44100


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prestissimo", *arguments]


@pytest.fixture
def process(tiny_model, tmp_path):
    """Runs `prestissimo generate` as a process of its own in an empty folder."""

    def call(*arguments: str, code: int = 0):
        line = command("generate", "--model", str(tiny_model), *arguments)
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == code, done.stderr.decode()
        return done

    return call


@pytest.fixture
def generate(tiny_model, tmp_path, monkeypatch, capsys):
    """Runs it within this process; returns standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        code = run(["generate", "--model", str(tiny_model), *arguments])
        captured = capsys.readouterr()
        assert (code, captured.out) == (0, ""), captured.err
        return captured.err

    return call


def test_a_file_and_a_line_about_it(generate, tmp_path):
    line = generate("calm solo piano", "--seconds", "0.75", "--seed", "7", "-o", "a.wav")
    sound = audio.read(tmp_path / "a.wav", RATE)
    assert sound.shape == (2, round(0.75 * RATE))
    assert re.fullmatch(
        r"a\.wav: 0\.75 s, seed 7, made in [\d.]+ s \(text [\d.]+, denoising [\d.]+, decoding [\d.]+\): "
        r"real-time factor [\d.]+, [\d.]+x real time\n",
        line,
    )
    tags = audio.read_tags(tmp_path / "a.wav")
    assert tags["title"] == "calm solo piano"
    assert (tags["comment"]["prompt"], tags["comment"]["seed"]) == ("calm solo piano", 7)
    assert tags["comment"]["model"] == "tiny"


def test_reports_in_json(process, tmp_path):
    done = process("calm", "--seconds", "0.5", "-n", "2", "--seed", "3", "--json", "--plot", "-o", "a.flac")
    report = json.loads(done.stdout)
    assert done.stderr == b""
    assert report["model"] == "tiny"
    assert report["sample_rate"] == RATE
    assert report["peak_memory_mb"] < 1500
    first, second = report["outputs"]
    assert (first["file"], first["seed"], second["seed"]) == ("a-1.flac", 3, 4)
    timing = first["timing"]
    parts = sum(timing[part] for part in ("text", "denoising", "decoding"))
    assert parts == pytest.approx(timing["total"], abs=1e-3)
    assert first["rtf"] == pytest.approx(timing["total"] / 0.5, rel=0.01)
    assert (tmp_path / "a-2.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_makes_the_same_file(generate, tmp_path):
    settings = ("--seconds", "0.5", "--quiet", "--steps", "3")
    generate("calm", "--seed", "8", "-o", "alone.wav", *settings)
    generate("calm", "--seed", "7", "-n", "2", "-o", "batch.wav", *settings)
    generate("calm", "--seed", "9", "-o", "other.wav", *settings)
    alone = (tmp_path / "alone.wav").read_bytes()
    assert alone == (tmp_path / "batch-2.wav").read_bytes()
    assert alone != (tmp_path / "batch-1.wav").read_bytes() != (tmp_path / "other.wav").read_bytes()


def test_prompts_files_and_formats(generate, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,seconds,seed\ncalm,0.5,1\nfast,0.6,2\n")
    (tmp_path / "album").mkdir()
    generate("--prompts", "prompts.csv", "-o", "album", "--format", "opus", "--quiet")
    assert sorted(p.name for p in (tmp_path / "album").iterdir()) == ["calm-1.opus", "fast-2.opus"]
    assert audio.read(tmp_path / "album" / "fast-2.opus").shape[1] == pytest.approx(0.6 * 48000, abs=2)
    generate("calm", "--seconds", "0.5", "-o", "a.wav", "--bit-depth", "float", "--lufs", "-30", "--quiet")
    assert audio.measure_loudness(audio.read(tmp_path / "a.wav"), RATE) == pytest.approx(-30, abs=0.2)


def test_a_tempo_for_a_model_that_takes_one(tiny_model, tmp_path, capsys):
    in_time = shutil.copytree(tiny_model, tmp_path / "in_time")
    config, _, dit, _ = load_model(in_time)
    timed = dit.with_conditions("tempo")
    torch.nn.init.normal_(timed.conditions["tempo"].linear.weight, std=0.5)
    save_checkpoint(in_time / "dit.safetensors", timed, asdict(timed.config))
    assemble_model(in_time, "in_time", config.sampling)
    made = {}
    for name, arguments in {
        "said": ["calm at 90 bpm"],
        "given": ["calm at 90 bpm", "--bpm", "120"],
        "none": ["calm"],
    }.items():
        file = tmp_path / f"{name}.wav"
        fixed = ["--seconds", "0.5", "--seed", "7", "--json", "-o", str(file)]
        assert run(["generate", "--model", str(in_time), *arguments, *fixed]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["outputs"]
        made[name] = entry["bpm"], audio.read(file)
    assert [bpm for bpm, _ in made.values()] == [90.0, 120.0, None]
    assert not np.array_equal(made["said"][1], made["given"][1])


def test_standard_output(process, generate, tmp_path):
    done = process("calm", "--seconds", "0.5", "--seed", "7", "-o", "-", "--json")
    (tmp_path / "piped.wav").write_bytes(done.stdout)
    generate("calm", "--seconds", "0.5", "--seed", "7", "-o", "file.wav", "--quiet")
    np.testing.assert_array_equal(audio.read(tmp_path / "piped.wav"), audio.read(tmp_path / "file.wav"))
    assert json.loads(done.stderr)["outputs"][0]["file"] == "-"


def test_initial_audio_is_kept_the_more_the_smaller_the_strength(generate, tmp_path):
    t = np.arange(RATE) / RATE
    tune = np.stack([np.sin(2 * np.pi * 440 * t)] * 2).astype(np.float32) * 0.3
    audio.write(tmp_path / "tune.wav", tune, RATE)
    for strength in ("0.05", "1"):
        generate(
            "calm",
            "--init-audio",
            "tune.wav",
            "--strength",
            strength,
            "-o",
            f"{strength}.wav",
            "--quiet",
            "--seed",
            "7",
        )
    near, far = (audio.read(tmp_path / f"{s}.wav") for s in ("0.05", "1"))
    assert near.shape == (2, RATE)
    assert not np.array_equal(near, far)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_finished(tiny_model, tmp_path, number):
    line = command(
        "generate", "calm", "--model", str(tiny_model), "-n", "500", "--seconds", "0.5", "-o", "a.wav"
    )
    # a shell's background job ignores Ctrl-C, and so would what it starts
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        line, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=heeds
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "a-002.wav").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"Traceback" not in stderr
    if number == signal.SIGINT:
        assert stderr.splitlines()[-1] == b"prestissimo: error: interrupted"
    names = sorted(p.name for p in tmp_path.iterdir())
    assert all(re.fullmatch(r"a-\d{3}\.wav", name) for name in names)
    for name in names:
        assert audio.read(tmp_path / name).shape == (2, RATE // 2)


def test_a_closed_pipe_is_one_line(tiny_model, tmp_path):
    line = command("generate", "calm", "--model", str(tiny_model), "-o", "-", "--seconds", "5", "--quiet")
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(timeout=120) == 1
    assert stderr == b"prestissimo: error: standard output was closed before everything was written\n"


def test_a_full_device_is_one_line(process):
    done = process("calm", "--seconds", "0.5", "-o", "/dev/full", "--format", "wav", "--overwrite", code=1)
    assert b"/dev/full: No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_cannot_be_finished_leaves_none_and_keeps_the_old(tiny_model, tmp_path):
    """A limit of 64 KiB on every file that the process writes: half a second of stereo is more."""
    (tmp_path / "out.wav").write_bytes(b"old")
    arguments = ["generate", "calm", "--model", str(tiny_model), "--seconds", "0.5", "--overwrite"]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        f"from prestissimo.cli import run; sys.exit(run({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    message = rb"prestissimo: error: out\.wav: File too large; --seed \d+ makes this piece again\n"
    assert re.fullmatch(message, done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    assert (tmp_path / "out.wav").read_bytes() == b"old"


def test_a_full_disk_leaves_no_file(process, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True
        )
        if os.geteuid() == 0
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        done = process("calm", "--seconds", "2", "--seed", "7", "-o", "disk/a.wav", code=1)
        message = b"disk/a.wav: No space left on device; --seed 7 makes this piece again"
        assert done.stderr == b"prestissimo: error: " + message + b"\n"
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_read_only_folders(process, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    done = process("calm", "-o", "locked/a.wav", code=1)
    assert b"the folder cannot be written into" in done.stderr


def test_terminals_get_no_binary_audio(tiny_model, tmp_path):
    import pty

    leader, follower = pty.openpty()
    try:
        line = command("generate", "calm", "--model", str(tiny_model), "-o", "-")
        done = subprocess.run(line, cwd=tmp_path, stdout=follower, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stderr


def test_progress_is_drawn_on_a_terminal(tiny_model, tmp_path):
    import pty

    leader, follower = pty.openpty()
    line = command("generate", "calm", "--model", str(tiny_model), "--seconds", "0.5")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(line, cwd=tmp_path, stderr=follower, env=environment) as process:
        os.close(follower)
        drawn = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:
                break
            drawn += part
        assert process.wait(timeout=60) == 0
    os.close(leader)
    assert b"denoising" in drawn
    assert b"real-time factor" in drawn


def test_help_is_fast_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from prestissimo.cli import run; code = run(['generate', '--help']);"
        "heavy = [m for m in ('torch', 'numpy', 'soundfile', 'matplotlib') if m in sys.modules];"
        "assert not heavy, heavy; assert code == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--init-audio" in done.stdout
    for option in ("--version", "--help"):
        assert subprocess.run(command(option), capture_output=True, check=True).stdout


def test_shell_completion_names_the_options(tmp_path):
    environment = {
        **os.environ,
        "_PRESTISSIMO_COMPLETE": "complete_bash",
        "COMP_WORDS": "prestissimo generate --st",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        command(), env=environment, capture_output=True, text=True, check=False, cwd=Path(tmp_path)
    )
    assert {"--steps", "--strength", "--strict-kernels"} <= set(done.stdout.split())
