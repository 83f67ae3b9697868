"""Evaluation reports as tables, JSON and HTML."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from flax_ner.errors import UserError
from flax_ner.evaluation.analysis import OUTCOMES
from flax_ner.evaluation.html_report import evaluation_html
from flax_ner.evaluation.metrics import score
from flax_ner.evaluation.summary import (
    Evaluation,
    error_table,
    evaluate_predictions,
    evaluation_json,
    evaluation_tables,
    texts_with_errors,
)
from flax_ner.text.examples import Entity, Example

TEXT = "<b>甲乙</b>&丙丁"


def entity(category: str, start: int, end: int, score: float = 1.0, text: str = TEXT) -> Entity:
    return Entity(category, start, end, text[start:end], score)


EXAMPLES = [
    Example(TEXT, (entity("a", 3, 5), entity("b", 10, 12)), "dev.json:1"),
    Example("无", (), "dev.json:2"),
    Example("丙丁", (entity("b", 0, 2, text="丙丁"),), "dev.json:3"),
]
PREDICTED = [
    [entity("a", 3, 5, 0.9), entity("c", 10, 12, 0.4), entity("a", 0, 1, 0.2)],
    [],
    [entity("b", 0, 2, 0.95, text="丙丁")],
]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    other = [PREDICTED[0][:1], [], []]
    predicted = {"strict": PREDICTED, "lenient": PREDICTED}
    return evaluate_predictions(
        "<model> on dev", EXAMPLES, predicted, "strict", EXAMPLES[2:], other
    )


def test_json_has_the_scores_and_the_analysis(evaluation: Evaluation) -> None:
    scores = score([e.entities or () for e in EXAMPLES], PREDICTED)
    row = json.loads(json.dumps(evaluation_json(evaluation)))
    assert row["all"]["f1"] == scores.f1
    assert row["intervals"]["f1"]["value"] == pytest.approx(scores.f1, abs=1e-12)
    assert row["by_type"]["b"]["correct"] == 1
    assert row["kinds"] == dict.fromkeys(OUTCOMES, 0) | {"correct": 2, "type": 1, "spurious": 1}
    assert row["confusion"] == [{"gold": "b", "found": "c", "count": 1}]
    assert row["groups"]["surface"]["seen in training"]["gold"] == 2
    assert row["groups"]["length of the entity"]["1-2 characters"]["predicted"] == 4
    assert row["conventions"].keys() == {"strict", "lenient"}
    assert row["comparison"]["difference"]["value"] == pytest.approx(scores.f1 - 2 / 4)
    assert [b["entities"] for b in row["reliability"]["bins"]] == [1, 1, 2]


def test_tables_show_the_same_results(evaluation: Evaluation) -> None:
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_tables(evaluation))
    text = console.export_text()
    for words in (
        "<model> on dev",
        "F1 0.5714 [",
        "spurious",
        "predicted as",
        "seen in training",
        "p =",
    ):
        assert words in text, words
    console.file.close()


class Page(HTMLParser):
    """Collect unclosed tags, links, classes of marks, outcomes of articles and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.marks: list[str] = []
        self.outcomes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        names = dict(attrs)
        self.links += [names[name] for name in ("src", "href") if name in names]
        if tag == "mark":
            self.marks.append(names["class"])
        if tag == "article":
            self.outcomes.append(names["data-outcomes"])
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_escaped_and_self_contained(evaluation: Evaluation) -> None:
    text = evaluation_html(evaluation)
    page = Page()
    page.feed(text)
    assert page.open == [] and page.links == []
    assert page.outcomes == ["spurious correct type", "none", "correct"]
    assert sorted(page.marks) == sorted(
        ["correct", "type", "spurious", "correct", "type", "correct"]
    )
    assert "<model> on dev" in page.text and "&丙" not in text.replace("&amp;", "")
    assert "<b>甲" not in text
    labels = re.findall(r'value="(\w+)"( checked)?> \w+ \((\d+)\)', text)
    assert ("type", " checked", "1") in labels and ("correct", "", "2") in labels
    assert ("none", "", "1") in labels


def test_the_page_marks_entities_in_the_text() -> None:
    text = "王建国在东海市工作。"
    spans = (("name", 0, 3), ("address", 4, 7))
    gold = [Example(text, tuple(entity(*span, text=text) for span in spans))]
    page = evaluation_html(
        evaluate_predictions("t", gold, {"strict": [list(gold[0].entities or ())]}, "strict")
    )
    plain = re.sub(r"</?(mark|sub)[^>]*>", "|", page)
    assert "|王建国|name||在|东海市|address||工作。" in plain


def test_the_page_of_a_model_without_errors_shows_all_texts() -> None:
    correct = [list(example.entities or ()) for example in EXAMPLES]
    page = evaluation_html(evaluate_predictions("t", EXAMPLES, {"strict": correct}, "strict"))
    assert 'value="correct" checked' in page and 'value="none" checked' in page


def test_error_table_shows_gold_and_predicted_entities(evaluation: Evaluation) -> None:
    assert [source for source, *_ in texts_with_errors(evaluation)] == ["dev.json:1"]
    table = error_table(evaluation, 5)
    sources, gold, predicted = (list(column.cells) for column in table.columns)
    assert sources == ["dev.json:1"]
    assert gold[0].plain == "<b>[甲乙 a]</b>&[丙丁 b]"
    assert predicted[0].plain == "[< a]b>[甲乙 a]</b>&[丙丁 c]"
    assert error_table(evaluation, 0).row_count == 0


def test_an_unlabelled_example_is_an_error() -> None:
    examples = [*EXAMPLES, Example("甲", None, "dev.json:4")]
    with pytest.raises(
        UserError,
        match=r"^dev\.json:4: has no label\. Scoring needs labelled data; python -m flax_ner predict",
    ):
        evaluate_predictions("t", examples, {"strict": [*PREDICTED, []]}, "strict")
