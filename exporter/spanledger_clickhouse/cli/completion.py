"""`spanledger completion`: prints the shell completion script for commands, options and values."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    Examples:
      spanledger completion bash > ~/.local/share/bash-completion/completions/spanledger
      spanledger completion fish > ~/.config/fish/completions/spanledger.fish
      source <(spanledger completion zsh)
    """
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.ClickException(f"this release of click has no completion for {shell}")
    click.echo(completion_class(ctx.find_root().command, {}, "spanledger", "_SPANLEDGER_COMPLETE").source())


COMMANDS: Final = (completion,)
