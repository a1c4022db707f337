"""Train six settings on five tasks, and others on two, at several learning rates; write the rows
and the tables of docs/rates.md.

Example: python -m tests.experiments.rates --data path/to/cs224n
"""

from pathlib import Path

import click

from tests.experiments.rates import (
    GRIDS,
    PAGE,
    ROWS,
    TASKS,
    curves,
    keep,
    page,
    run_grid,
    write_examples,
)


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="The folder with the files of sts.")
@click.option("--folder", default="runs/rates", type=click.Path(path_type=Path))
@click.option("--page", "only_page", is_flag=True, help=f"Only write {PAGE.name}.")
def main(data: Path | None, folder: Path, only_page: bool) -> None:
    if not only_page:
        if data is None:
            raise click.UsageError("--data: the folder with sts-train.csv and sts-dev.csv")
        folder.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            write_examples(task, data, folder)
        for name, some in GRIDS.items():
            for exponent in some.exponents:
                for task in some.tasks:
                    run_grid(folder, name, task, exponent)
        keep(folder)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), curves(ROWS)), encoding="utf-8")


if __name__ == "__main__":
    main()
