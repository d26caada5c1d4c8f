"""`wesper completion`: completion for shells, made from the commands themselves."""

from __future__ import annotations

from typing import Literal

from . import app


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a shell's completion for wesper: commands, options and their choices.

    For the shell that runs: `source <(wesper completion bash)`, `source <(wesper completion zsh)` or
    `wesper completion fish | source`. For good: write it to `~/.local/share/bash-completion/completions/wesper`, to
    `_wesper` in a folder of zsh's fpath, or to `~/.config/fish/completions/wesper.fish`.

    Parameters
    ----------
    shell
        Which shell.
    """
    print(app.generate_completion(prog_name="wesper", shell=shell))
    if shell == "zsh":
        print(_ZSH_ENTRY)
    return 0


# As a file of fpath this is the body of the function `_wesper`; sourced, it has to make itself known.
_ZSH_ENTRY = """\
if [[ "$funcstack[1]" == _wesper ]]; then
  _cyclopts_wesper "$@"
else
  compdef _cyclopts_wesper wesper
fi"""
