"""``kern completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kern.cli.global_options import Command


@click.command(cls=Command, name="completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options of kern.

    \b
    bash  eval "$(kern completion bash)"        in ~/.bashrc
    zsh   eval "$(kern completion zsh)"         in ~/.zshrc
    fish  kern completion fish > ~/.config/fish/completions/kern.fish
    """
    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(ctx.find_root().command, {}, "kern", "_KERN_COMPLETE").source())
