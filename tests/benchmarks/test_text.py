"""Reading and tokenising the embedded default, whole."""

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from minbert.data.tasks import load_task
from minbert.data.tokenizer import Tokenizer


def test_read_movies(benchmark: BenchmarkFixture) -> None:
    data = benchmark.pedantic(load_task, args=("movies",), rounds=3, warmup_rounds=1)
    benchmark.extra_info["texts"] = len(data.train) + len(data.dev)


def test_tokenise_movies(benchmark: BenchmarkFixture, minilm: Path) -> None:
    texts = load_task("movies").train.text_a
    tokenizer = Tokenizer.from_folder(minilm)
    benchmark.extra_info["texts"] = len(texts)
    benchmark.pedantic(tokenizer.encode, args=(texts, None, 128), rounds=5, warmup_rounds=1)
