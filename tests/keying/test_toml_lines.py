"""Line numbers in TOML texts."""

from __future__ import annotations

import pytest

from wesper.keying.toml_lines import LineIndex

TEXT = '''title = "x"            # 1
a.b = 1                # 2
"quoted" = [           # 3
  "[[sa]]",            # 4
  { c = 1 },           # 5
]                      # 6
text = """             # 7
[[sa]]
d = 1                  # 9
\\""" still in it
"""                    # 11
literal = \'\'\'
e = 1                  # 13
\\\'\'\'
[[sa]]                 # 15
spi = 1                # 16
[[sa.selectors]]       # 17
local = ["]", '[']     # 18
[[sa.selectors]]       # 19
[sa.inner]             # 20
local = "#"            # 21
[[sa]]                 # 22
  spi = 2              # 23
[[sa.selectors]]       # 24
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("title", 1),
        ("a", 2),
        ("a.b", 2),
        ("quoted", 3),
        ("quoted[1].c", 3),
        ("text", 7),
        ("d", None),
        ("e", None),
        ("literal", 12),
        ("sa[0]", 15),
        ("sa[0].spi", 16),
        ("sa[0].selectors[0]", 17),
        ("sa[0].selectors[0].local", 18),
        ("sa[0].selectors[0].local[1]", 18),
        ("sa[0].selectors[1]", 19),
        ("sa[0].inner", 20),
        ("sa[0].inner.local", 21),
        ("sa[0].missing", 15),
        ("sa[1]", 22),
        ("sa[1].spi", 23),
        ("sa[1].selectors[0].x", 24),
        ("sa[2]", 15),
        ("", None),
    ],
)
def test_line(path: str, line: int | None) -> None:
    assert LineIndex(TEXT).line(path) == line
