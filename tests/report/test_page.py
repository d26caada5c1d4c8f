from __future__ import annotations

import re
from html.parser import HTMLParser

from wesper.report import Bar, Page, Table, Tile, bars, preformatted

HOSTILE = '<script>alert("x")</script>&'


class Reader(HTMLParser):
    """Collects tags and attributes, and complains of tags that are closed out of turn."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def filled(text: str) -> str:
    page = Page(text, text, text, "bad", text, [Tile(text, text, "good")])
    page.section(text, text, bars([Bar(text, 1, text, "esp")]), Table((text,), [(text,)], (0,)), wide=True)
    page.section(text, "", preformatted(text, mark=text))
    return page.html()


def test_page_is_whole_and_says_everything() -> None:
    read = Reader(filled("something"))
    assert read.open == []
    assert read.tags.count("section") == 2
    assert {"svg", "table", "pre", "mark", "h1"} <= set(read.tags)


def test_page_asks_nothing_of_the_network() -> None:
    html = filled("something")
    read = Reader(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in read.attributes}
    assert re.findall(r"url\(|@import", html) == []
    assert set(re.findall(r"https?://[^\"\s]*", html)) == {"http://www.w3.org/2000/svg"}
    assert ("http-equiv", "Content-Security-Policy") in read.attributes
    assert any(
        name == "content" and value and value.startswith("default-src 'none'") for name, value in read.attributes
    )


def test_texts_from_outside_stay_text() -> None:
    read = Reader(filled(HOSTILE))
    assert "script" not in read.tags
    assert read.text.count(HOSTILE) >= 10


def test_numbers_are_set_to_the_right() -> None:
    page = Page("title")
    page.section("numbers", "", Table(("what", "count"), [("ESP", "7")], (1,)))
    assert '<td>ESP</td><td class="number">7</td>' in page.html()


def test_both_dresses_name_the_same_colours() -> None:
    html = filled("x")
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    names = re.compile(r"--[a-z]+")
    assert set(names.findall(light)) == set(names.findall(dark))
    used = set(re.findall(r"var\((--[a-z]+)\)", html))
    assert used <= set(names.findall(light))
