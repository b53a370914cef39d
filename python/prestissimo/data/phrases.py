# SPDX-License-Identifier: Apache-2.0
"""From attributes to English: words, lists, phrases and sentences, with attributes left out at random."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from prestissimo.data.captions import Attributes

__all__ = ["STYLE_WORDS", "caption", "names_music"]

_GENRES = {
    "classical": ("classical", "classical music", "orchestral"), "classic": ("classical", "classic"),
    "techno": ("techno", "electronic dance", "techno music"), "electronic": ("electronic", "electronica"),
    "rock": ("rock", "rock music"), "ambient": ("ambient", "ambient music", "atmospheric"),
    "indian": ("Indian music", "eastern music"), "opera": ("opera", "operatic"), "pop": ("pop",),
    "new age": ("new age",), "dance": ("dance", "dance music"), "country": ("country", "folk"),
    "metal": ("metal", "heavy metal", "hard rock"), "choral": ("choral",),
}  # fmt: skip
_INSTRUMENTS = {
    "guitar": ("guitar", "guitars"), "strings": ("strings", "string section"),
    "drums": ("drums", "percussion"),
    "beat": ("a beat", "drums"), "beats": ("beats", "drum beats"), "piano": ("piano",),
    "violin": ("violin", "strings"), "synth": ("synth", "synthesizer", "synths"),
    "harpsichord": ("harpsichord",), "flute": ("flute",), "sitar": ("sitar",), "harp": ("harp",),
    "cello": ("cello", "strings"), "choir": ("choir",),
}  # fmt: skip
_VOICES = {"vocal", "female", "male", "singing", "vocals", "woman", "male vocal", "man", "voice",
           "male voice", "female vocal", "female voice"}  # fmt: skip

#: What a rendered piece in each style may be called.
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "piano solo": ("piano piece", "piano music", "piano solo", "solo piano"),
    "piano classical": ("classical piano", "classical piano piece", "solo piano"),
    "piano ragged": ("ragtime piano", "playful piano piece"),
    "flute solo": ("solo flute", "flute melody", "flute music"),
    "flute duo": ("chamber music", "classical duo", "flute music"),
    "guitar solo": ("solo guitar", "fingerpicked guitar", "guitar music"),
    "guitar strummed": ("rhythm guitar", "strummed guitar", "guitar music"),
    "string quartet": ("string quartet", "classical chamber music", "strings"),
    "string orchestra": ("string orchestra", "orchestral strings", "classical music"),
    "violin solo": ("violin melody", "classical violin", "solo violin with accompaniment"),
    "cello solo": ("cello music", "classical cello"),
    "harp solo": ("solo harp", "harp music"),
    "harpsichord": ("baroque harpsichord", "harpsichord music", "baroque music"),
    "orchestra": ("orchestral music", "classical orchestra", "symphonic music", "cinematic orchestra"),
    "choir": ("choral music", "choir"),
    "techno": ("techno", "electronic dance music", "techno track"),
    "drum solo": ("drums", "drum solo", "percussion", "drum groove"),
    "drum and bass": ("drum and bass", "electronic music"),
    "rock band": ("rock", "rock band", "rock music"),
    "metal band": ("metal", "heavy metal", "hard rock"),
    "ambient": ("ambient", "ambient music", "ambient pads", "atmospheric music"),
    "jazz trio": ("jazz", "jazz trio", "swing"),
    "bossa nova": ("bossa nova", "latin jazz"),
    "folk": ("folk music", "acoustic folk", "country"),
    "synth pop": ("synth pop", "electronic pop", "80s synth music"),
    "sitar": ("Indian music", "sitar music"),
    "game score": ("video game music", "game soundtrack", "retro game music"),
    "piano lesson": ("simple piano piece", "piano exercise"),
}

#: The common name of an instrument where its last word is not it.
_FAMILY = {
    "violin": "strings", "viola": "strings", "cello": "strings", "contrabass": "strings", "double bass": "bass",
    "bass guitar": "bass", "synth lead": "synth", "synth pad": "pads", "synth bass": "bass", "music box": "bells",
    "french horn": "brass", "trumpet": "brass", "trombone": "brass", "recorder": "flute", "fiddle": "violin",
}  # fmt: skip

_CALM = ("calm", "peaceful", "relaxing", "gentle", "soothing", "tranquil", "serene")
_LIVELY = ("energetic", "lively", "driving", "upbeat", "intense", "powerful")
_MOOD = {
    (True, "low"): ("melancholic", "sad", "somber", "wistful", "dark and calm"),
    (True, "mid"): ("moody", "mysterious", "dramatic", "brooding"),
    (True, "high"): ("aggressive", "tense", "dark and driving", "urgent"),
    (False, "low"): ("warm", "dreamy", "tender", "hopeful"),
    (False, "mid"): ("pleasant", "bright and easy", "friendly", "uplifting"),
    (False, "high"): ("happy", "joyful", "cheerful", "triumphant"),
}


def names_music(tag: str) -> bool:
    """Whether a tag of the tagger is a genre or an instrument."""
    return tag in _GENRES or tag in _INSTRUMENTS


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _join(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _unique(words: Sequence[str]) -> list[str]:
    """The words without those whose beginning has been said: "classic" after "classical music"."""
    kept: list[str] = []
    for word in words:
        stem = re.sub(r"^(a|the|heavy|hard|solo) ", "", word)[:5]
        if word and not any(stem in k for k in kept):
            kept.append(word)
    return kept


def _energy(a: Attributes) -> float:
    pace = np.clip((a.bpm - 60) / 90, 0, 1) if a.bpm else 0.5
    return float(0.4 * a.dense + 0.25 * a.loud + 0.2 * pace + 0.15 * a.bright)


def _genre_words(a: Attributes, rng: np.random.Generator) -> list[str]:
    if a.exact:
        return [_pick(rng, STYLE_WORDS.get(a.style, (a.style,)))]
    words = [_pick(rng, _GENRES[t]) for t in a.tags if t in _GENRES]
    if a.genre and rng.random() < 0.6:
        words.insert(0, a.genre)
    return _unique(words)


def _instrument_words(a: Attributes, rng: np.random.Generator) -> list[str]:
    if a.exact:
        return _unique([_FAMILY.get(i, i.split()[-1]) if rng.random() < 0.3 else i for i in a.instruments])
    words = [_pick(rng, _INSTRUMENTS[t]) for t in a.tags if t in _INSTRUMENTS]
    if sum(t in _VOICES for t in a.tags) >= 2 and rng.random() < 0.5:
        words.append(_pick(rng, ("voices", "vocals")))
    return _unique(words)


def _mood_words(a: Attributes, rng: np.random.Generator) -> list[str]:
    energy = _energy(a)
    level = "low" if energy < 0.36 else "high" if energy > 0.62 else "mid"
    if level == "mid" and not a.exact and ("metal" in a.tags or a.genre.endswith("metal")):
        level = "high"
    words = []
    if level == "low":
        words.append(_pick(rng, _CALM))
    elif level == "high":
        words.append(_pick(rng, _LIVELY))
    minor = a.minor if "metal" not in a.genre else True
    if minor is not None and rng.random() < 0.5:
        words.append(_pick(rng, _MOOD[(minor, level)]))
    if not a.exact and "weird" in a.tags and rng.random() < 0.4:
        words.append(_pick(rng, ("strange", "experimental", "weird")))
    return _unique(words)


def _tempo_words(a: Attributes, rng: np.random.Generator) -> list[str]:
    words = []
    slow, fast = a.tags.get("slow", 0) > 1.2, a.tags.get("fast", 0) > 1
    if a.bpm:
        # The octave of a measured tempo is a guess, so the word also needs the density to agree.
        if a.bpm < 82 and (a.exact or a.dense < 0.6):
            slow = True
        elif a.bpm > 126 and (a.exact or a.dense > 0.4):
            fast = True
        beats = round(a.bpm)
        words.append(
            _pick(rng, (f"{beats} bpm", f"{beats} bpm", f"{beats} beats per minute", f"{beats} BPM"))
        )
    if slow != fast:
        options = ("slow", "slow tempo", "unhurried") if slow else ("fast", "fast tempo", "quick")
        words.append(_pick(rng, options))
    elif a.bpm and 88 <= a.bpm <= 122 and rng.random() < 0.4:
        words.append(_pick(rng, ("medium tempo", "moderate tempo", "mid-tempo")))
    rng.shuffle(words)
    return words[: 1 if rng.random() < 0.7 else 2]


# Quantiles beyond which the sound is worth a word. With 0.82 and 0.18, and no word of it in phrases, 3 captions of
# 100 said bright and 1 dark; a model trained on them got 15 of 20 pairs that differ in that word right.
_LOW, _HIGH = 0.25, 0.75


def _sound_words(a: Attributes, rng: np.random.Generator) -> list[str]:
    words = []
    if a.loud > _HIGH:
        words.append(_pick(rng, ("loud", "full", "powerful")))
    elif a.loud < _LOW:
        words.append(_pick(rng, ("quiet", "soft", "hushed")))
    if a.bright > _HIGH:
        words.append(_pick(rng, ("bright", "crisp", "sparkling", "brilliant")))
    elif a.bright < _LOW:
        words.append(_pick(rng, ("dark", "warm", "mellow", "muffled")))
    if a.dense > 0.85:
        words.append(_pick(rng, ("busy", "dense", "rhythmic")))
    elif a.dense < 0.12:
        words.append(_pick(rng, ("sparse", "sustained", "spacious")))
    if a.width > -3:
        words.append(_pick(rng, ("wide stereo", "spacious stereo")))
    elif a.width < -25:
        words.append(_pick(rng, ("mono", "narrow stereo")))
    if a.bass > -1.5:
        words.append(_pick(rng, ("deep bass", "heavy bass")))
    rng.shuffle(words)
    return words[: int(rng.integers(1, 4))]


def _key_words(a: Attributes, rng: np.random.Generator) -> str:
    if not a.key:
        return ""
    mode = a.key.split()[-1]
    return _pick(
        rng, (f"in {a.key}", f"in {a.key}", f"in a {mode} key", f"{mode} key", f"in {mode}", f"{mode} mode")
    )


def caption(a: Attributes, rng: np.random.Generator) -> str:
    """One description of `a`: a single word (1 in 10), a list, a phrase or sentences; never empty.

    Each group of facts (genre, instruments, mood, tempo, key, sound, section, title) is left out at random.
    The same generator state gives the same text.
    """
    genres, instruments, moods = (f(a, rng) for f in (_genre_words, _instrument_words, _mood_words))
    form = rng.random()
    if form < 0.1 and genres + instruments:
        return _pick(rng, genres[:1] + instruments[:1])
    keep = rng.random(6) < (0.85, 0.85, 0.65, 0.55, 0.5, 0.55)
    genres = genres[: int(rng.integers(1, 3))] if keep[0] else []
    instruments = instruments[: int(rng.integers(1, 5))] if keep[1] else []
    moods = moods[: int(rng.integers(1, 3))] if keep[2] else []
    tempo = _tempo_words(a, rng) if keep[3] else []
    key = _key_words(a, rng) if keep[4] else ""
    sound = _sound_words(a, rng) if keep[5] else []
    if not (genres or instruments or moods):
        genres = _genre_words(a, rng)[:1] or _mood_words(a, rng)[:1] or ["instrumental music"]
    if form < 0.4:
        words = _unique([*moods, *genres, *instruments, *tempo, key.removeprefix("in "), *sound])
        if rng.random() < 0.5:
            rng.shuffle(words)
        text = ", ".join(words)
    elif form < 0.75:
        adjectives = _unique([*moods, *(w for w in sound if " " not in w)][:4])
        text = _phrase(a, rng, genres, instruments, adjectives, tempo, key)
    else:
        text = _sentences(a, rng, genres, instruments, moods, tempo, key, sound)
    if _speaking(a.title) and not a.exact and rng.random() < 0.06:
        text = f"{a.title}: {text}" if rng.random() < 0.5 else f'{text.rstrip(".")}, like "{a.title}"'
    return text


def _noun(a: Attributes, rng: np.random.Generator, genres: list[str], instruments: list[str]) -> str:
    if a.exact and len(a.instruments) == 1 and instruments and rng.random() < 0.6:
        return f"solo {instruments[0]}"
    if genres:
        noun = " ".join(g.removesuffix(" music") for g in genres[:-1][:1])
        noun = f"{noun} {genres[min(len(genres), 2) - 1]}".strip()
        ends = (
            "music",
            "piece",
            "solo",
            "pads",
            "band",
            "quartet",
            "melody",
            "track",
            "soundtrack",
            "groove",
        )
        return (
            noun
            if noun.endswith(ends) or rng.random() < 0.5
            else f"{noun} {_pick(rng, ('music', 'track', 'piece'))}"
        )
    if instruments:
        return f"{instruments[0]} {_pick(rng, ('music', 'piece', 'melody'))}"
    return _pick(rng, ("music", "instrumental", "piece of music"))


def _phrase(
    a: Attributes,
    rng: np.random.Generator,
    genres: list[str],
    instruments: list[str],
    moods: list[str],
    tempo: list[str],
    key: str,
) -> str:
    noun = _noun(a, rng, genres, instruments)
    rest = [i for i in instruments if i not in noun]
    text = f"{', '.join(moods)} {noun}".strip()
    if rest:
        text += f" {_pick(rng, ('with', 'featuring', 'with'))} {_join(rest)}"
    tail = [key] if key.startswith("in") else []
    tail += tempo + ([key] if key and not tail else [])
    if tail:
        text += (" " if tail[0].startswith("in ") else ", ") + ", ".join(tail)
    return text[:1].upper() + text[1:] if rng.random() < 0.5 else text


def _sentences(
    a: Attributes,
    rng: np.random.Generator,
    genres: list[str],
    instruments: list[str],
    moods: list[str],
    tempo: list[str],
    key: str,
    sound: list[str],
) -> str:
    noun = _noun(a, rng, genres, instruments)
    opening = f"{' and '.join(moods)} {noun}".strip()
    if rng.random() < 0.4:
        article = "An" if opening[0].lower() in "aeiou" else "A"
        ends = ("piece", "track", "solo", "melody", "quartet", "band", "instrumental")
        opening = f"{article} {opening}" if opening.endswith(ends) else opening
    rest = [i for i in instruments if i not in noun]
    if rest:
        opening += f" with {_join(rest)}"
    parts = [opening[:1].upper() + opening[1:]]
    facts = _unique([*tempo, *sound, key])
    if facts:
        line = ", ".join(facts)
        parts.append(line[:1].upper() + line[1:])
    if a.section and rng.random() < 0.5:
        parts.append({"intro": "The beginning of the piece", "ending": "The end of the piece"}[a.section])
    return ". ".join(parts) + "."


def _speaking(title: str) -> bool:
    """Whether a title says something: letters and spaces only, a word of four letters or more."""
    return bool(re.fullmatch(r"[A-Za-z' ]+", title)) and any(len(w) > 3 for w in title.split())
