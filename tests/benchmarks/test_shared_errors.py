"""benchmarks/shared_errors.py: errors that several models share."""

from flax_ner.text.examples import Entity, Example
from tests.benchmarks.scripts import load_benchmark


def example(text: str, *entities: tuple[str, int, int]) -> Example:
    found = (Entity(kind, start, end, text[start:end]) for kind, start, end in entities)
    return Example(text, tuple(found))


def test_report_counts_shared_errors_and_known_entities() -> None:
    script = load_benchmark("shared_errors")
    train = [example("张三去北京", ("name", 0, 2), ("address", 3, 5))]
    dev = [example("北京的李四见张三", ("address", 0, 2), ("name", 3, 5), ("name", 6, 8))]
    both = {(0, 0, 2, "organization"), (0, 3, 6, "name"), (0, 2, 3, "name")}
    predicted = [both | {(0, 6, 8, "name")}, both | {(0, 5, 6, "address")}]
    assert script.report(train, dev, predicted).splitlines()[2:7] == [
        "| gold entities not found | 2, 3 | 2 | 1 |",  # 北京 is an address in the training data
        "| false positives | 3, 4 | 3 | 0 |",
        "| - another type | | 1 | |",
        "| - overlap | | 1 | |",
        "| - no gold entity | | 1 | |",
    ]
    assert script.report(train, dev, predicted).splitlines()[-2:] == [
        "| known | 2 | 0.5000, 0.0000 |",
        "| not known | 1 | 0.0000, 0.0000 |",
    ]
