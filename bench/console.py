"""The console command `minbert-bench`: each command of this project as a subcommand.

Unlike `python -m`, it does not import modules from the current folder.
"""

import ast
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

import click
from click.shell_completion import CompletionItem

from bench.common.command import run_command
from bench.common.files import read_tables
from bench.common.messages import CALLED, CONSOLE, as_called, echo
from minbert.registry import note_unusable

COMMANDS: Final = read_tables(__file__, "commands.toml")

_FIRST: Final = f"""\
{CONSOLE} run --grid quick --data reviews.csv   four settings on your texts, and a report
{CONSOLE} recommend                             which of them to use, and how sure that is
{CONSOLE} export recommended --to my-model      its model, for the libraries that you use
Results go to the current folder. {CONSOLE} --help lists all commands.
"""


class _Commands(click.Group):
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The subcommands, without importing any, and the options."""
        own = [
            CompletionItem(name, help=" ".join(_summary(place).split()))
            for name, place in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return own + super().shell_complete(ctx, incomplete)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = resolve_name(COMMANDS[cmd_name])
        note_unusable()
        command.help, command.epilog = map(as_called, (command.help or "", command.epilog or ""))
        for option in command.params:
            if isinstance(option, click.Option):
                option.help = as_called(option.help or "")
        sys.argv[:2] = [f"{CONSOLE} {cmd_name}"]  # as if it had been called alone
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(place)) for name, place in COMMANDS.items()])


def _summary(place: str) -> str:
    """The first paragraph of the docstring of a command's module, without importing the module."""
    spec = find_spec(place.partition(":")[0])
    text = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]


def _print_version(ctx: click.Context, _option: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted:
        return
    from bench.machine.conditions import MEASUREMENT_VERSION, torch_build
    from bench.machine.version import code_version
    from bench.plan.rows import SCHEMA

    torch, cuda = torch_build()
    echo(
        f"{CONSOLE} {code_version()}\nmeasurement {MEASUREMENT_VERSION}, schema {SCHEMA}\n"
        f"Python {platform.python_version()}, torch {torch}, CUDA {cuda or 'none'}"
    )
    ctx.exit()


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    epilog=f"Example: {CONSOLE} run --grid smoke. For completion by Tab, add to ~/.bashrc (or, "
    f'with zsh_source, to ~/.zshrc): eval "$(_MINBERT_BENCH_COMPLETE=bash_source {CONSOLE})"',
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print versions, as results have them.",
)  # fmt: skip
@click.pass_context
def _group(ctx: click.Context) -> None:
    """Measure what fine-tuning methods of small encoders cost and give, and report it."""
    if ctx.invoked_subcommand is None:
        echo(_FIRST, nl=False)


def main() -> None:
    os.environ[CALLED] = CONSOLE
    run_command(_group, CONSOLE)
