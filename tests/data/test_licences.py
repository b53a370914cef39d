# SPDX-License-Identifier: Apache-2.0
import pytest

from prestissimo.data.licences import licence_of, parse_copyright, spdx, trainable
from prestissimo.data.manifest import read_manifest
from prestissimo.data.sources import SOURCES, source_named

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: game

Files: *
Copyright: 2001 A
License: GPL-2+

Files: data/music/*.ogg
 ./data/intro.ogg
Copyright:
 2002 B
 2003 C
License: GPL-3 or CC-BY-3.0
Comment: by B and C

Files: data/music/loud.ogg
Copyright: D
License: Expat
 the text

License: GPL-2+
 on Debian systems ...
"""


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("CC0-1.0", True),
        ("MIT", True),
        ("CC-BY-SA-3.0 OR GPL-2.0-or-later", True),
        ("GPL-3.0-only OR CC-BY-3.0", True),
        ("CC-BY-4.0 AND CC-BY-3.0", True),
        ("CC-BY-4.0 AND GPL-2.0-only", False),
        ("GPL-2.0-or-later", False),
        ("CC-BY-NC-4.0", False),
        ("CC-BY-NC-SA-3.0 OR GPL-2.0-only", False),
        ("GFDL-1.3-only", False),
        ("NOASSERTION", False),
        ("", False),
    ],
)
def test_which_licences_may_train(expression, allowed):
    assert trainable(expression) is allowed


def test_copyright_file_last_match_rules():
    entries = parse_copyright(COPYRIGHT)
    assert [e.licence for e in entries] == ["GPL-2.0-or-later", "GPL-3.0-only OR CC-BY-3.0", "MIT"]
    assert licence_of("data/music/a.ogg", entries).holders == ("2002 B", "2003 C")
    assert licence_of("data/intro.ogg", entries).licence == "GPL-3.0-only OR CC-BY-3.0"
    assert licence_of("data/music/loud.ogg", entries).licence == "MIT"
    assert licence_of("src/main.c", entries).licence == "GPL-2.0-or-later"
    assert licence_of("x", []) is None


def test_free_text_is_not_a_copyright_file():
    with pytest.raises(ValueError, match="Format:"):
        parse_copyright("This package was debianized by someone.")


def test_spdx_of_debian_names():
    assert spdx("Expat or GPL-2 or GPL-3") == "MIT OR GPL-2.0-only OR GPL-3.0-only"
    assert spdx("public-domain") == "LicenseRef-public-domain"


def test_every_training_track_is_allowed_and_reviewed():
    tracks = read_manifest()
    assert len(tracks) > 200
    for t in tracks:
        source = source_named(t.package)
        relative = t.paths[0].removeprefix(source.root)
        rule = source.rule(relative)
        assert rule is not None, t.id
        assert (rule.licence, rule.author) == (t.licence, t.author), t.id
        if t.split == "heldout_package":
            assert source.evaluation
        else:
            assert trainable(t.licence), t.id
            assert not source.evaluation


def test_no_source_is_listed_twice_and_unknown_ones_are_named():
    names = [s.package for s in SOURCES]
    assert len(set(names)) == len(names)
    assert not {"gcompris-qt-data", "immich-memories-music"} & set(names)
    with pytest.raises(ValueError, match="zaz-data"):
        source_named("wesnoth")
