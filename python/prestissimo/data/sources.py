# SPDX-License-Identifier: Apache-2.0
"""The reviewed table of recorded music: Debian packages, and per track licence, author and evidence.

A file is used only where a rule names it. Where the package carries a machine-readable copyright file the
rule's licence must also be what that file says; a package update that changes terms then stops the build.
Left out whole: supertux-data (its copyright file puts data/music/* under GPL-2+), wesnoth, nexuiz, colobot and
planetblupi (GPL), and the background sounds of every game.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

__all__ = ["SOURCES", "Rule", "Source", "source_named"]


@dataclass(frozen=True)
class Rule:
    """Files below the source's root that match `pattern`: the first rule that matches decides."""

    pattern: str
    licence: str
    author: str
    evidence: str
    genre: str = ""


@dataclass(frozen=True)
class Source:
    """A Debian package, where its music lies, and the rules that admit it.

    archive: a zip inside the package that holds the music, or "".
    root: folder of the music inside package or archive.
    origin: what replaces `root` to give the path that the copyright file uses; None where the package has no
    machine-readable one that speaks of the music.
    evaluation: the package is a held-out set and never trains.
    stems: every folder holds parts of one song that are to be added up.
    """

    package: str
    root: str
    rules: tuple[Rule, ...]
    archive: str = ""
    origin: str | None = None
    evaluation: bool = False
    stems: tuple[str, ...] = ()

    def rule(self, path: str) -> Rule | None:
        """The rule for a path relative to `root`, or None."""
        return next((r for r in self.rules if fnmatch.fnmatchcase(path, r.pattern)), None)


_BY, _BY4 = "CC-BY-3.0", "CC-BY-4.0"
_SA, _SA4 = "CC-BY-SA-3.0", "CC-BY-SA-4.0"
_CC0, _PD = "CC0-1.0", "LicenseRef-public-domain"
_GPL2, _GPL2P, _GPL3P = "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-or-later"
_DEP5 = "debian/copyright, Files paragraph"
_STK_ZERO = "0zone0ne (Max Freeman) and Krobonil (Chris Leutwyler)"


def _each(names: str, licence: str, author: str, evidence: str, genre: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(name, licence, author, evidence, genre) for name in names.split())


SOURCES: tuple[Source, ...] = (
    Source(
        "fretsonfire-songs-sectoid",
        "usr/share/games/fretsonfire/data/songs/sectoid/",
        (
            Rule(
                "*",
                "MIT",
                "Carlos Viola Iborra",
                "copyright: songs, performances and fret files, MIT text",
                "rock",
            ),
        ),
        stems=("song.ogg", "guitar.ogg"),
    ),
    Source(
        "fretsonfire-songs-muldjord",
        "usr/share/games/fretsonfire/data/songs/muldjord/",
        (
            Rule(
                "*",
                _SA,
                "Muldjord (El Senator)",
                "copyright and readme.txt beside each song: CC BY-SA 3.0",
                "death metal",
            ),
        ),
        stems=("song.ogg", "guitar.ogg"),
    ),
    Source(
        "zaz-data",
        "usr/share/games/zaz/",
        (Rule("mus?.ogg", _SA, "paniq (Leonard Ritter)", f"{_DEP5} data/mus*.ogg", "electronic"),),
        origin="data/",
    ),
    Source(
        "singularity-music",
        "usr/share/games/singularity/music/",
        (
            Rule(
                "*.ogg",
                _SA,
                "Maxstack (Max McCracken)",
                "tag license=creativecommons.org/licenses/by-sa/3.0 in each file, README, copyright",
            ),
        ),
    ),
    Source(
        "hyperrogue-music",
        "usr/share/hyperrogue/music/",
        (
            Rule("hr3-*.ogg", _SA, "Shawn Parrotte (Neon Corridor)", f"{_DEP5} music/hr3-*"),
            Rule("hr-domina-*.ogg", _SA, "Lincoln Domina", f"{_DEP5} music/hr-domina-*"),
            Rule("hr-savino-*.ogg", _SA, "Will Savino", f"{_DEP5} music/hr-savino-*"),
        ),
        origin="music/",
    ),
    Source(
        "warzone2100-music",
        "usr/share/games/warzone2100/music/albums/",
        (
            Rule(
                "aftermath_soundtrack/track3_enhanced.opus",
                _GPL2P,
                "Martin Severn, LupusMechanicus",
                "license.txt: derived from track3, GPL",
            ),
            # license.txt offers CC BY-SA for it, but the menu theme it enhances is GPL like the game's other
            # original music, and nothing says that the copy is independent of it.
            Rule(
                "aftermath_soundtrack/menu_enhanced.opus",
                "NOASSERTION",
                "LupusMechanicus",
                "license.txt, in doubt",
            ),
            Rule(
                "aftermath_soundtrack/*.opus",
                f"{_SA} OR {_GPL2P}",
                "LupusMechanicus",
                "aftermath_soundtrack/license.txt: CC BY-SA 3.0 or later, or GPL 2 or later",
            ),
            Rule(
                "legacy_soundtrack/*.opus",
                f"{_SA} OR {_GPL2P}",
                "LupusMechanicus",
                "legacy_soundtrack/license.txt: CC BY-SA 3.0 or later, or GPL 2 or later",
            ),
            Rule("original_soundtrack/*.opus", _GPL2P, "Martin Severn", "copyright: Files: * GPL-2+"),
        ),
    ),
    Source(
        "ufoai-music",
        "music/",
        (
            *_each(
                "David01.ogg David02.ogg David03.ogg David04.ogg David05.ogg",
                _BY,
                "David Reeves (Destructavator)",
                _DEP5,
            ),
            Rule("azrael1.ogg", _BY, "azrael1322", _DEP5),
            Rule("karlmacklin_geoscape.ogg", _BY, "Karl Macklin", _DEP5),
            Rule("van_*.ogg", _BY, "Manuel Marino (Vanethian)", _DEP5),
            Rule("Crystan-*.ogg", _SA, "Christian Hoffmann (Crystan)", _DEP5),
            Rule("Marine*.ogg", _SA, "Marine Baklund", _DEP5),
            Rule("TheThings-Slippycurb.ogg", _SA, "Slippycurb", _DEP5),
            Rule("dynamictest-*.ogg", _SA, "Gren", _DEP5),
            Rule("returnjourney.ogg", _SA, "Gren", _DEP5),
            *_each("alBasrahM.ogg greecei.ogg turinItalyM.ogg", _PD, "Independent.nu, Golgotha", _DEP5),
            Rule("Psymong*.ogg", _GPL2, "Simon Green (Psymong)", _DEP5),
            Rule("*.ogg", _GPL2, "UFO:AI contributors", _DEP5),
        ),
        archive="usr/share/games/ufoai/base/0music.pk3",
        origin="base/music/",
    ),
    Source(
        "0ad-data",
        "audio/music/",
        (
            Rule(
                "*.ogg",
                _SA,
                "Wildfire Games (Omri Lahav and others)",
                "audio/LICENSE.txt in public.zip and debian/copyright Files: *",
            ),
        ),
        archive="usr/share/games/0ad/mods/public/public.zip",
        origin="audio/music/",
    ),
    Source(
        "megaglest-data",
        "usr/share/games/megaglest/",
        (
            # The credits name another album, Chronicles III, whose own terms the package does not carry.
            Rule("*romans/music/romans.ogg", "NOASSERTION", "Mattias Westlund", "AUTHORS.data.txt, in doubt"),
            Rule("techs/megapack/factions/norsemen/music/*.ogg", _SA, "Manolo Camp", f"{_DEP5} *"),
            Rule("techs/megapack/factions/egypt/music/*.ogg", _SA, "Margaras (asak)", f"{_DEP5} *"),
            Rule("techs/megapack/factions/*/music/aminos-*.ogg", _SA, "Aminos", f"{_DEP5} *"),
            Rule("techs/megapack/factions/indian/music/*.ogg", _SA, "Aminos", f"{_DEP5} *"),
            Rule("techs/megapack/factions/*/music/music_*.ogg", _SA, "The Glest Team", f"{_DEP5} *"),
            Rule("data/core/menu/music/*.ogg", _SA, "The Glest Team", f"{_DEP5} *"),
        ),
        origin="data/",
    ),
    Source(
        "supertuxkart-data",
        "usr/share/games/supertuxkart/data/",
        (
            *_each(
                "music/celtic.ogg music/farm.ogg music/ravenbridge_mansion.ogg",
                _SA,
                _STK_ZERO,
                f"{_DEP5} data/music/",
            ),
            Rule("music/landing_in_gran_paradiso.ogg", _SA, _STK_ZERO, f"{_DEP5} data/music/"),
            *_each(
                "music/bay.ogg music/egypt.ogg music/overworld.ogg music/demonhill.ogg",
                _SA,
                "0zone0ne (Max Freeman)",
                f"{_DEP5} data/music/",
            ),
            *_each(
                "music/Snowy.ogg music/West.ogg",
                _SA,
                "Krobonil (Chris Leutwyler)",
                f"{_DEP5} data/music/",
            ),
            *_each(
                "music/hacienda.ogg music/menutheme.ogg music/subsea.ogg music/win_theme.ogg",
                _SA,
                "Claude Werner (bollen)",
                f"{_DEP5} data/music/",
            ),
            *_each("music/garden.ogg music/valley.ogg", _SA, "DJ Helium", f"{_DEP5} data/music/"),
            Rule("music/kart_grand_prix.ogg", _SA, "Weirwood", f"{_DEP5} data/music/"),
            Rule("music/Lava.ogg", _SA, "Kalsan", f"{_DEP5} data/music/"),
            Rule("music/race_summary.ogg", _SA, "Dundersylt", f"{_DEP5} data/music/"),
            Rule(
                "music/SkyVibe-HighFrequency.ogg",
                _SA,
                "Speedsound (modified by Constantin Pelikan)",
                f"{_DEP5} data/music/",
            ),
            Rule(
                "music/jumping_to_the_stars_remake.ogg",
                _SA,
                "GeekPenguinBR, Heuchi1",
                f"{_DEP5} data/music/",
            ),
            Rule("music/xeon6.ogg", _SA, "commissioned by Bart Kelsey", f"{_DEP5} data/music/"),
            Rule("music/alien_signal.ogg", _SA4, "Heuchi1", f"{_DEP5} data/music/"),
            Rule("music/Boom_boom_boom.ogg", _SA4, "Keith Baylis (Vim)", f"{_DEP5} data/music/"),
            Rule(
                "tracks/battleisland/Gran_Paradiso_Unused_*.ogg",
                _SA,
                "0zone0ne (Max Freeman)",
                f"{_DEP5} data/tracks/battleisland/",
            ),
            Rule(
                "tracks/cave/beneath_the_rabbit_hole.ogg",
                f"{_GPL2P} OR LicenseRef-CC-BY-SA",
                "Jason Lavallée",
                f"{_DEP5} data/tracks/cave/",
            ),
            # The folder's paragraph credits the level's maker with CC BY 4.0, the file's tag another one.
            Rule("tracks/ancient_colosseum_labyrinth/*.ogg", "NOASSERTION", "Alexandr Zhelanov", "file tag"),
            # klabauter_dance and main_theme are GPL; *_fast and farm_f repeat other tracks at another speed.
            Rule("music/*.ogg", _GPL3P, "SuperTuxKart contributors", f"{_DEP5} *"),
        ),
        origin="data/",
    ),
    Source(
        "naev-data",
        "usr/share/naev/dat/snd/music/",
        (
            *_each(
                "ambient1.ogg ambient2.ogg ambient2_5.ogg ambient3.ogg automat.ogg battlesomething1.ogg "
                "battlesomething2.ogg collective1.ogg collective2.ogg empire1.ogg empire2.ogg "
                "flf_battle1.ogg intrigue.ogg intro.ogg landing_sinister.ogg nebu_battle1.ogg "
                "nebu_battle2.ogg sirius1.ogg tension.ogg upbeat.ogg zalek1.ogg zalek2.ogg",
                f"GPL-3.0-only OR {_BY}",
                "Nikola Whallon",
                "SOUND_LICENSE.yaml and debian/copyright",
            ),
            *_each("ambiphonic.ogg void_sensor.ogg", _BY, "Zeropage", "SOUND_LICENSE.yaml, file tag"),
            *_each(
                "ambient4.ogg combat1.ogg combat2.ogg combat3.ogg dvaered1.ogg dvaered2.ogg eureka.ogg "
                "sirius2.ogg terminal.ogg",
                _SA,
                "Askyel",
                "SOUND_LICENSE.yaml and debian/copyright",
            ),
            Rule("motherload.ogg", _SA4, "One Abe (iamoneabe)", "SOUND_LICENSE.yaml"),
            Rule("pirate1_theme1.ogg", _CC0, "Olivier Bérubé", "SOUND_LICENSE.yaml"),
            Rule("pirates_orchestra.ogg", _CC0, "Dizzy Crow", "SOUND_LICENSE.yaml", "orchestral"),
            Rule("heartofmachine.ogg", _BY, "Alexandr Zhelanov", "SOUND_LICENSE.yaml"),
            Rule("dark_city.ogg", _BY, "Muncheybobo", "SOUND_LICENSE.yaml"),
            *_each("blackmoor_tides.ogg imminent_threat.ogg", _BY, "Matthew Pablo", "SOUND_LICENSE.yaml"),
            Rule("*.ogg", _GPL2P, "Vega Strike", "SOUND_LICENSE.yaml and debian/copyright"),
        ),
    ),
    Source(
        "openclonk-data",
        "usr/share/games/openclonk/Music.ocg/",
        (
            # Listed by nobody: authors.txt names the other seven.
            Rule("Cavern.ogg", "NOASSERTION", "Martin Strohmeier (K-Pone)", "not in authors.txt"),
            Rule(
                "*.ogg",
                _BY,
                "Martin Strohmeier (K-Pone)",
                "Music.ocg/authors.txt: CC Attribution 3.0; copyright: game content CC BY 3.0 or CC0",
            ),
        ),
    ),
    # Held-out packages, heard by metrics only. Their terms would not let them train (third-party music below
    # a blanket MIT-or-GPL or GPL statement), they cost no training data, and they differ from all the rest:
    # short funk, chiptune and orchestral loops; OpenGameArt electronica and rock; dark ambient and breakbeat.
    Source(
        "davegnukem-data",
        "usr/share/games/davegnukem/music/eric_matyas/",
        (Rule("*.ogg", "NOASSERTION", "Eric Matyas", "copyright names only the game's author"),),
        evaluation=True,
    ),
    Source(
        "starfighter-data",
        "usr/share/starfighter/music/",
        (
            Rule("through_space.ogg", "", "Maxstack", "the same piece is in singularity-music, which trains"),
            Rule("*.ogg", _GPL2P, "OpenGameArt composers, credits.txt", "debian/copyright Files: *"),
        ),
        evaluation=True,
    ),
    Source(
        "freedroidrpg-data",
        "usr/share/freedroidrpg/data/sound/music/",
        (Rule("*.ogg", _GPL2P, "Arvid Picciani and others", "debian/copyright Files: *"),),
        evaluation=True,
    ),
)


def source_named(package: str) -> Source:
    """The source of a package. Raises ValueError that lists the packages there are."""
    for source in SOURCES:
        if source.package == package:
            return source
    raise ValueError(f"packages must be among {', '.join(s.package for s in SOURCES)}, got {package!r}")
