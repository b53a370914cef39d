# SPDX-License-Identifier: Apache-2.0
"""What `import prestissimo` loads, and what it must not."""

from __future__ import annotations

import logging
import subprocess
import sys

import prestissimo


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_is_light():
    heavy = ("torch", "numpy", "soundfile", "matplotlib", "rich", "typer")
    assert run(f"import prestissimo, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_torch_is_imported_before_the_compiled_module():
    code = (
        "import prestissimo, importlib.util, sys; importlib.util.find_spec('prestissimo._core');"
        "print('torch' in sys.modules)"
    )
    assert run(code) == "True"


def test_the_pipeline_costs_little_beyond_torch():
    """Processor time, not wall time: the machine may be busy."""
    code = (
        "import time, torch; begun = time.process_time(); import prestissimo.pipeline;"
        "print(time.process_time() - begun)"
    )
    assert float(run(code)) < 1.0


def test_audio_files_need_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; import prestissimo; "
    assert run(blocked + "print(prestissimo.audio.limit_peak([[0.5]])[1])") == "0.0"


def test_names_are_listed_and_wrong_ones_refused():
    assert {"load", "Pipeline", "ops"} <= set(dir(prestissimo))
    assert not hasattr(prestissimo, "absent")
    handlers = logging.getLogger("prestissimo").handlers
    assert any(isinstance(h, logging.NullHandler) for h in handlers)
