"""Train six settings on five tasks, and others on two, at several learning rates; write the rows
and the tables of docs/rates.md.

Example: python -m tests.experiments.rates --data path/to/cs224n"""

from itertools import product
from pathlib import Path

import click

from tests.experiments import rates as own
from tests.experiments.pages import rewrite


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="The folder with the files of sts.")
@click.option("--folder", default="runs/rates", type=click.Path(path_type=Path))
@click.option("--page", "only_page", is_flag=True, help=f"Only write {own.PAGE.name}.")
def main(data, folder, only_page):
    if not only_page:
        if data is None:
            raise click.UsageError("--data: the folder with sts-train.csv and sts-dev.csv")
        folder.mkdir(parents=True, exist_ok=True)
        for task in own.TASKS:
            own.write_examples(task, data, folder)
        for name, (*_, tasks, exponents) in own.GRIDS.items():
            for exponent, task in product(exponents, tasks):
                own.run_grid(folder, name, task, exponent)
        own.keep_rows(folder / "rates.csv", own.ROWS)
    rewrite(own.PAGE, own.page, own.curves(own.ROWS))


if __name__ == "__main__":
    main()
