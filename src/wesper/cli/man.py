"""`wesper man`: manual pages in man(7), made from what `--help` shows."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.help import HelpEntry, create_parameter_help_panel, format_usage

from .. import __version__
from ..errors import ConfigError, ExitCode
from . import app as root

_SECTION = 1


def man(*command: str, output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None) -> int:
    """Print the manual page of a command, or write the pages of all.

    `wesper man pcap encrypt | man -l -` shows one. `wesper man -o ~/.local/share/man/man1` makes all of them known to
    `man`.

    Parameters
    ----------
    command
        The command, word by word; wesper itself if there is none.
    output
        Folder that gets a page for each command.
    """
    if output is None:
        print(page(command))
        return 0
    if command:
        raise ConfigError("a folder gets the pages of all commands", key="command", expected="none with --output")
    output.mkdir(parents=True, exist_ok=True)
    for words in commands():
        (output / f"{name_of(words)}.{_SECTION}").write_text(page(words) + "\n")
    return 0


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group of commands, () for wesper itself, each group before its own."""
    yield from _below(root, ())


def name_of(command: Sequence[str]) -> str:
    """Return a page's name, as wesper-pcap-encrypt."""
    return "-".join(("wesper", *command))


def page(command: Sequence[str]) -> str:
    """Return one manual page.   Raises ConfigError if there is no such command.

    Dated today, or by SOURCE_DATE_EPOCH.   Source: man(7), man-pages(7).
    """
    found = root
    for place, word in enumerate(command):
        known = _subcommands(found)
        if word not in known:
            asked = " ".join(("wesper", *command[: place + 1]))
            raise ConfigError(
                f"there is no command {asked}", key="command", expected=", ".join(known) or "no more words"
            )
        found = found[word]
    summary, *paragraphs = _description(found)
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    lines = [
        f'.TH {name_of(command).upper()} {_SECTION} {date} "wesper {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escaped(name_of(command))} \\- {_escaped(summary[:1].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        *_synopsis(command),
        ".SH DESCRIPTION",
        *_paragraphs([summary, *paragraphs]),
    ]
    for title, entries in _panels(found):
        lines.append(f".SH {title.upper()}")
        for entry in entries:
            lines += [".TP", _label(entry), *_entry_text(entry)]
    below = {word: found[word] for word in _subcommands(found)}
    if below:
        lines.append(".SH COMMANDS")
        for word, each in below.items():
            lines += [".TP", f"\\fB{_escaped(word)}\\fR", _text(_description(each)[0])]
    lines.append(".SH EXIT STATUS")
    for code in ExitCode:
        lines += [".TP", f"\\fB{code.value}\\fR", _text(code.sentence)]
    lines += [".SH SEE ALSO", *_see_also(command, below)]
    return "\n".join(lines)


def _below(group: App, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for word in _subcommands(group):
        yield from _below(group[word], (*words, word))


def _subcommands(group: App) -> list[str]:
    return sorted(word for word in group if not word.startswith("-") and group[word].show)


def _description(command: App) -> list[str]:
    """Return the paragraphs of a command's help, the summary first."""
    cleaned = inspect.cleandoc(command.help or "")
    prose = re.split(r"\n+Parameters\n-+\n", cleaned)[0]
    return [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")] if prose else [""]


def _synopsis(command: Sequence[str]) -> Iterator[str]:
    usage = format_usage(root, command, show_metavar=True).plain.strip().removeprefix("Usage:").split()
    fixed = len(command) + 1
    yield f"\\fB{_escaped(' '.join(usage[:fixed]))}\\fR"
    yield from (f"\\fB{_escaped(word)}\\fR" if word.startswith("-") else _escaped(word) for word in usage[fixed:])


def _panels(command: App) -> Iterator[tuple[str, list[HelpEntry]]]:
    if command.default_command is None:
        return
    arguments = command.assemble_argument_collection(parse_docstring=True)
    for group in arguments.groups:
        panel = create_parameter_help_panel(group, arguments.filter_by(group=group), "plaintext")
        if panel.entries:
            yield {"Parameters": "Options"}.get(str(panel.title), str(panel.title)), panel.entries


def _label(entry: HelpEntry) -> str:
    names = [*entry.positive_shorts, *entry.positive_names]
    label = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in names)
    value = entry.positional_label or entry.metavar
    return f"{label} \\fI{_escaped(value)}\\fR".strip() if value else label


def _entry_text(entry: HelpEntry) -> Iterator[str]:
    about = str(getattr(entry.description, "primary_renderable", entry.description))
    facts = ["needed"] * entry.required
    facts += [f"one of {', '.join(entry.choices)}"] if entry.choices else []
    facts += [f"default {entry.default}"] if entry.default not in (None, "False", "") else []
    yield _text(about)
    if facts:
        yield _text(f"({'; '.join(facts)})")


def _paragraphs(paragraphs: Sequence[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        yield _text(paragraph)


def _see_also(command: Sequence[str], below: dict[str, App]) -> Iterator[str]:
    others = [name_of((*command, word)) for word in below] or [name_of(command[:-1])]
    yield (
        ",\n".join(f".BR {_escaped(each)} ({_SECTION})" for each in others)
        .replace("),\n", ") ,\n")
        .replace(") ,", "),")
    )
    yield ".PP"
    yield _text("`docs/` of the source has a page for each part.")


def _text(prose: str) -> str:
    """Return prose as one line of roff: what stands in backticks in bold."""
    parts = re.split(r"`([^`]+)`", " ".join(prose.split()))
    line = "".join(f"\\fB{_escaped(part)}\\fR" if number % 2 else _escaped(part) for number, part in enumerate(parts))
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _escaped(text: str) -> str:
    """Return text in which roff sees no request, and - stays the character that is typed."""
    return text.replace("\\", "\\e").replace("-", "\\-")
