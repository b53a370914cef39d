# SPDX-License-Identifier: Apache-2.0
"""The styles: what plays, how fast, in which register and with which patterns."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STYLES", "Layer", "Style"]

#: Instrument name -> General MIDI programs (0 ... 127) that may stand for it.
PROGRAMS: dict[str, tuple[int, ...]] = {
    "piano": (0, 0, 0, 1), "electric piano": (4, 5), "harpsichord": (6,), "celesta": (8,), "music box": (10,),
    "vibraphone": (11,), "marimba": (12,), "organ": (16, 19), "accordion": (21,), "nylon guitar": (24,),
    "acoustic guitar": (24, 25, 25), "jazz guitar": (26,), "electric guitar": (27, 29),
        "distorted guitar": (29, 30),
    "double bass": (32,), "bass guitar": (33, 34), "synth bass": (38, 39), "violin": (40,), "viola": (41,),
    "cello": (42,), "contrabass": (43,), "pizzicato strings": (45,), "harp": (46,), "timpani": (47,),
    "strings": (48, 49), "synth strings": (50, 51), "choir": (52, 53), "trumpet": (56,), "trombone": (57,),
    "french horn": (60,), "brass": (61,), "saxophone": (65, 66), "oboe": (68,), "clarinet": (71,),
        "flute": (73,),
    "recorder": (74,), "pan flute": (75,), "whistle": (78,), "synth lead": (80, 81),
        "synth pad": (88, 89, 90, 95),
    "synth": (81, 62, 63, 84), "sitar": (104,), "banjo": (105,), "fiddle": (110,), "drums": (0,),
    "electronic drums": (24, 25), "jazz drums": (32, 40),
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One part. role: "melody", "chords" (an accompaniment pattern), "bass" or "drums".

    instruments: names to choose from; several layers of a style with the same first entry share the choice.
    patterns: of ACCOMPANIMENTS, BASS_LINES or GROOVES. voices: of a voicing. level: MIDI volume 0 ... 1.
    core: plays in every section; the others come and go. sustain: pedal held through each bar.
    """

    role: str
    instruments: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    low: int = 60
    high: int = 84
    voices: int = 3
    level: float = 0.8
    pan: float = 0.0
    core: bool = True
    sustain: bool = False


@dataclass(frozen=True)
class Style:
    """A kind of piece. tempo: range in bpm. minor: probability. loose: timing deviation in ms.

    rubato: relative deviation of the tempo from bar to bar. activity: range of the melody's liveliness.
    """

    name: str
    weight: float
    tempo: tuple[float, float]
    layers: tuple[Layer, ...]
    minor: float = 0.5
    waltz: float = 0.0
    harmony: str = "common"
    sevenths: float = 0.15
    loose: float = 10.0
    rubato: float = 0.0
    activity: tuple[float, float] = (0.2, 0.7)
    velocity: tuple[int, int] = (50, 100)


def _melody(
    *names: str, low: int = 64, high: int = 86, level: float = 0.95, pan: float = 0.0, core: bool = True
) -> Layer:
    return Layer("melody", names, low=low, high=high, level=level, pan=pan, core=core)


def _chords(
    names: str,
    patterns: str,
    low: int = 50,
    high: int = 70,
    voices: int = 3,
    level: float = 0.7,
    pan: float = 0.0,
    core: bool = True,
    sustain: bool = False,
) -> Layer:
    return Layer(
        "chords",
        tuple(names.split("|")),
        tuple(patterns.split("|")),
        low,
        high,
        voices,
        level,
        pan,
        core,
        sustain,
    )


def _bass(names: str, patterns: str, level: float = 0.85, core: bool = True) -> Layer:
    return Layer("bass", tuple(names.split("|")), tuple(patterns.split("|")), level=level, core=core)


def _drums(patterns: str, names: str = "drums", level: float = 0.85, core: bool = True) -> Layer:
    return Layer("drums", tuple(names.split("|")), tuple(patterns.split("|")), level=level, core=core)


_PIANO_LEFT = "arpeggio|broken octave|wide arpeggio|half block|alberti"

STYLES: dict[str, Style] = {
    s.name: s
    for s in (
        Style("piano solo", 12, (60, 150), (
            _melody("piano", low=62, high=88),
            _chords("piano", _PIANO_LEFT, 43, 60, sustain=True, level=0.75),
        ), rubato=0.03, loose=14, activity=(0.05, 0.7), velocity=(36, 98)),
        Style("piano classical", 7, (66, 176), (
            _melody("piano", low=64, high=90),
            _chords("piano", "alberti|waltz|quarters|arpeggio|block", 46, 62, level=0.72),
        ), waltz=0.35, rubato=0.02, activity=(0.35, 1.0), velocity=(45, 100)),
        Style("piano ragged", 2.5, (90, 170), (
            _melody("piano", low=64, high=88), _chords("piano", "stride|comp", 48, 62, level=0.8),
        ), minor=0.25, loose=8, activity=(0.5, 0.9), velocity=(65, 105)),
        Style("flute solo", 7, (60, 140), (
            _melody("flute", low=66, high=91, level=1.0),
        ), rubato=0.03, loose=15, activity=(0.2, 0.95), velocity=(50, 100)),
        Style("flute duo", 8, (60, 140), (
            _melody("flute", "recorder", "pan flute", "flute", low=67, high=91, pan=-0.25),
            _chords("harp|piano|nylon guitar|strings", "arpeggio|wide arpeggio|broken octave|waltz",
                48, 66, pan=0.25,
                    level=0.7, sustain=True),
        ), waltz=0.3, rubato=0.02, activity=(0.1, 0.8), velocity=(45, 95)),
        Style("guitar solo", 8, (60, 150), (
            _melody("acoustic guitar", "nylon guitar", "jazz guitar", low=60, high=80, level=0.95),
            _chords("acoustic guitar", "travis|arpeggio|broken octave|fast arpeggio", 48, 62, level=0.8),
        ), rubato=0.015, loose=12, activity=(0.1, 0.6), velocity=(50, 100)),
        Style("guitar strummed", 3, (70, 160), (
            _chords("acoustic guitar|electric guitar|nylon guitar", "strum", 50, 66, 4, level=0.95),
            _melody("acoustic guitar", "jazz guitar", "electric guitar",
                low=62, high=81, core=False, level=0.85, pan=0.3),
        ), loose=12, velocity=(60, 105)),
        Style("string quartet", 7, (60, 160), (
            _melody("violin", low=64, high=88, pan=-0.4),
            _chords("violin", "half block|quarters|eighths|arpeggio|block", 60, 76, 2, pan=-0.15, level=0.65),
            _chords("viola", "half block|quarters|block", 53, 69, 2, pan=0.15, level=0.65),
            _bass("cello", "whole|root fifth|quarters", level=0.8),
        ), waltz=0.3, rubato=0.015, activity=(0.2, 0.95), velocity=(50, 100)),
        Style("string orchestra", 5, (60, 130), (
            _chords("strings", "block|half block|eighths", 52, 76, 4, level=0.85),
            _bass("contrabass|cello", "whole|root fifth", level=0.75),
            _melody("strings", "violin", "cello", low=62, high=86, core=False, level=0.9),
            _chords("pizzicato strings", "arpeggio|quarters|eighths", 55, 72, core=False, level=0.7, pan=0.3),
        ), activity=(0.05, 0.6), velocity=(45, 100), harmony="common", waltz=0.2),
        Style("violin solo", 4, (60, 140), (
            _melody("violin", low=62, high=90, level=1.0),
            _chords("piano|harp", _PIANO_LEFT, 45, 64, level=0.55, sustain=True, core=False),
        ), rubato=0.025, loose=14, activity=(0.2, 0.95)),
        Style("cello solo", 3.5, (60, 120), (
            _melody("cello", low=40, high=64, level=1.0),
            _chords("piano|strings|harp", "block|broken octave|half block|arpeggio",
                50, 68, level=0.5, core=False),
        ), rubato=0.025, loose=14, minor=0.65, activity=(0.1, 0.7)),
        Style("harp solo", 3, (60, 130), (
            _melody("harp", low=66, high=90), _chords("harp", "wide arpeggio|fast arpeggio|arpeggio",
                48, 66, level=0.8),
        ), rubato=0.03, activity=(0.05, 0.5), velocity=(45, 90)),
        Style("harpsichord", 3.5, (72, 160), (
            _melody("harpsichord", low=62, high=86), _chords("harpsichord",
                "alberti|quarters|arpeggio|half block", 46, 62),
        ), waltz=0.2, activity=(0.5, 1.0), velocity=(70, 100)),
        Style("orchestra", 6, (60, 160), (
            _chords("strings", "block|half block|eighths|quarters", 52, 76, 4, level=0.8),
            _bass("contrabass", "whole|root fifth|quarters", level=0.8),
            _melody("oboe", "clarinet", "french horn", "trumpet", "flute", "violin",
                low=60, high=84, level=0.95, pan=-0.2),
            _chords("french horn|brass|trombone", "block|half block",
                48, 66, core=False, level=0.7, pan=0.35),
            _chords("harp|pizzicato strings|celesta", "arpeggio|fast arpeggio|quarters",
                60, 84, core=False, level=0.6),
            _drums("march|taiko", core=False, level=0.55),
        ), activity=(0.15, 0.8), velocity=(50, 112), waltz=0.15),
        Style("choir", 2.5, (60, 110), (
            _chords("choir", "block|half block", 50, 76, 4, level=0.95),
            _chords("organ|strings", "block", 40, 62, 3, level=0.5, core=False),
        ), rubato=0.01),
        Style("techno", 5, (118, 150), (
            _drums("techno|four", "electronic drums|drums", level=0.95),
            _bass("synth bass", "offbeat|eighths|octaves|syncopated"),
            _chords("synth|synth lead", "pulse|offbeats|fast arpeggio", 60, 79, level=0.65, pan=0.2),
            _chords("synth pad", "block", 52, 72, 4, core=False, level=0.6),
            _melody("synth lead", core=False, level=0.6, pan=-0.25),
        ), minor=0.85, harmony="static", loose=0, velocity=(80, 112), activity=(0.4, 0.9)),
        Style("drum solo", 6, (70, 175), (
            _drums("rock|rock drive|breakbeat|funk|tribal|taiko|march|latin|half time|dnb|pop",
                "drums|electronic drums|jazz drums",
                   level=1.0),
        ), loose=8, velocity=(75, 118)),
        Style("drum and bass", 2, (150, 180), (
            _drums("dnb|breakbeat", "electronic drums|drums", level=0.95), _bass("synth bass",
                "reese|whole|syncopated"),
            _chords("synth pad|synth strings", "block", 52, 74, 4, level=0.7, core=False),
            _melody("electric piano", "synth lead", "vibraphone", core=False, level=0.65),
        ), minor=0.85, harmony="static", loose=0, sevenths=0.6, velocity=(80, 112)),
        Style("rock band", 4, (90, 170), (
            _drums("rock|rock drive|half time|pop", level=0.9), _bass("bass guitar",
                "eighths|quarters|syncopated"),
            _chords("distorted guitar|electric guitar", "chug|power hold|strum|eighths",
                50, 64, 3, level=0.75, pan=-0.5),
            _chords("electric guitar|distorted guitar", "power hold|strum|offbeats",
                52, 67, 3, level=0.65, pan=0.5, core=False),
            _melody("distorted guitar", "electric guitar", "organ", low=60, high=82, core=False, level=0.8),
        ), minor=0.55, loose=8, velocity=(80, 115), activity=(0.3, 0.85)),
        Style("metal band", 2, (100, 180), (
            _drums("metal|metal gallop|half time|rock drive", level=0.95), _bass("bass guitar",
                "eighths|quarters"),
            _chords("distorted guitar", "chug|gallop|power hold", 40, 55, 3, level=0.85, pan=-0.6),
            _chords("distorted guitar", "chug|gallop|power hold", 40, 55, 3, level=0.85, pan=0.6),
            _melody("distorted guitar", low=62, high=86, core=False, level=0.8),
        ), minor=1.0, harmony="power", loose=5, velocity=(95, 122), activity=(0.5, 1.0)),
        Style("ambient", 6, (60, 100), (
            _chords("synth pad|synth strings|choir", "block", 46, 74, 4, level=0.95),
            _chords("synth pad|strings|synth strings", "block", 55, 80, 3, level=0.6, core=False, pan=0.3),
            _melody("vibraphone", "celesta", "electric piano", "synth lead", "piano", "flute",
                core=False, level=0.6, pan=-0.3),
            _bass("synth bass|contrabass", "whole", core=False, level=0.6),
        ), harmony="static", sevenths=0.6, loose=20, activity=(0.0, 0.25), velocity=(36, 78)),
        Style("jazz trio", 3, (80, 180), (
            _drums("swing", "jazz drums|drums", level=0.7), _bass("double bass", "walking"),
            _chords("piano|electric piano|jazz guitar", "comp", 52, 70, 4, level=0.65),
            _melody("piano", "saxophone", "trumpet", "vibraphone", "jazz guitar", "clarinet",
                core=False, level=0.9),
        ), sevenths=1.0, loose=14, activity=(0.3, 0.95), velocity=(60, 100)),
        Style("bossa nova", 2, (100, 150), (
            _drums("bossa|latin", "drums|jazz drums", level=0.6), _bass("double bass|bass guitar", "bossa"),
            _chords("nylon guitar", "bossa", 50, 66, 4, level=0.8, pan=0.25),
            _melody("flute", "nylon guitar", "piano", "saxophone", "vibraphone",
                core=False, level=0.85, pan=-0.2),
        ), sevenths=1.0, activity=(0.2, 0.7), velocity=(55, 95)),
        Style("folk", 3.5, (80, 160), (
            _chords("acoustic guitar|banjo", "travis|strum|arpeggio", 50, 66, 3, level=0.8, pan=0.25),
            _bass("double bass", "root fifth|quarters", core=False, level=0.7),
            _melody("fiddle", "whistle", "accordion", "recorder", "flute", "acoustic guitar",
                low=64, high=86, level=0.9, pan=-0.2),
        ), minor=0.35, waltz=0.3, loose=12, activity=(0.3, 0.9)),
        Style("synth pop", 3, (96, 140), (
            _drums("pop|four|rock", "electronic drums|drums"), _bass("synth bass",
                "octaves|eighths|syncopated"),
            _chords("synth|synth strings|electric piano", "block|offbeats|pulse", 55, 76, 4, level=0.65),
            _melody("synth lead", "synth", "electric piano", core=False, level=0.75),
        ), loose=0, velocity=(75, 110), activity=(0.3, 0.8)),
        Style("sitar", 2.5, (60, 140), (
            _melody("sitar", low=55, high=79, level=1.0), _chords("sitar|synth pad|strings",
                "block|fast arpeggio", 48, 60, 2, level=0.5),
            _drums("tribal|latin", level=0.6, core=False),
        ), harmony="static", minor=0.6, loose=14, activity=(0.3, 0.95)),
    )
}  # fmt: skip
