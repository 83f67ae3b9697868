"""Files that are none of the forms that are read: each is refused, and the message says why."""

from pathlib import Path

import pytest

from flax_ner.errors import UserError
from tests.data.reading import columns, read

REFUSED = {
    "doccano with label numbers": (
        '{"text": "林月", "annotations": [{"label": 3, "start_offset": 0, "end_offset": 2}]}',
        "'annotations' are num"),
    "a classification": ('{"text": "林月", "label": "positive"}', '"label" does not have the form'),
    "entities without offsets": ('{"text": "林月", "entities": ["林月"]}', '"entities" does not have the form'),
    "two fields with spans": (
        '{"text": "林月", "label": [[0, 2, "PER"]], "marked": [[0, 1, "PER"]]}',
        "spans in 'label' and in 'marked'"),
    "a surface that is elsewhere in the text": (
        '{"text": "彭小军在台湾", "entities": [{"start_idx": 1, "end_idx": 3, "type": "X", '
        '"entity": "彭小军"}]}',
        "but the text has"),
    "a value that is elsewhere in the text": (
        '{"text": "Otto Kern slept", "entities": [{"start": 5, "end": 9, "type": "PER", "value": "Otto"}]}',
        "but the text has"),
    "a text that its tokens are not those of": (
        '{"text": "林月在苏州", "tokens": ["林月", "在", "苏州"], "entities": [{"start": 0, "end": 1, '
        '"type": "X"}]}\n'
        '{"text": "“林月”在", "tokens": ["林月", "在"], "entities": [{"start": 0, "end": 1, "type": "X"}]}',
        "no field has the tokens"),
    "lists of spans in a list": (
        '{"text": "林月在苏州", "entities": [[{"start": 0, "end": 2, "type": "PER"}], '
        '[{"start": 3, "end": 5, "type": "LOC"}]]}', "does not have the form"),
    "offsets before the first token": (
        '{"tokens": ["a", "b"], "entities": [{"start": -9, "end": 1, "type": "X", "text": "q"}]}',
        "of 2 tokens"),
    "fewer tags than tokens": ('{"tokens": ["a", "b"], "labels": []}', "2 tokens but 0 labels"),
    "a sentence per line with a tag too few": (
        "Otto slept\tB-PER O\nin Mainz\tO\nAnn left\tB-PER O\n", "data:2: 2 tokens, but 1 tags"),
    "a sentence per line with a wrong tag": (
        "Otto slept\tB-PER O\nin Mainz\tO LOC\nAnn left\tB-PER O\n", "data:2: 'LOC' is not a tag"),
    "a sentence in one of the lines": (
        "Otto\tB-PER\nin\tO\nNew York\tB-LOC I-LOC\n", "data:3: 2 tags on one line"),
    "a comma without quotes in CSV": (
        "token,tag\nOtto,B-PER\n,,O\n",
        "data:3: 3 columns, but the header has 2. Put a field that contains a comma in quotes"),
    "a row of CSV without a tag": (
        "token,pos,tag\nOtto,N,B-PER\nin,O\n", "data:3: 2 columns, but the header has 3"),
    "a line of JSON that is cut off": (
        '{"text": "Otto", "label": []}\n{"text": "Otto sl',
        "data:2: not JSON (the line ends inside the string that starts at column 10)"),
    "an array that is cut off in a string": (
        '[\n{"text": "Otto sl', "data:2: not JSON (the file ends inside the string that starts at column 10)"),
    "an array that is cut off": ('[\n{"text": "Otto"}, {', "not JSON (the file ends too early, at column 20)"),
    "gzip": (b"\x1f\x8b\x08", "unpack it, e.g. with gzip -dc"),
    "zip": (b"PK\x03\x04", "unpack a zip archive (doccano exports one)"),
    "a header separated by spaces": (
        "wort art\nOtto B-PER\nslept O\nin O\n", "and a category. If this line is a header, delete it."),
    "bare prefixes": ("Otto B\nKern I\nslept O\nin O\nit O\n", "data:1: 'B' is not a tag. It has no category."),
    "a word for O in a CSV": (
        "token,tag\nOtto,B-PER\nslept,NA\nin,O\n", "Write O in place of 'NA' for tokens outside"),
    "a word for O": (
        "Otto B-PER\nslept OTHER\nin OTHER\n", "data:2 has 'OTHER', which is not a tag. Write O in place of"),
    "a word for O without prefixes": ("Otto PER\nslept none\nin none\n", "Write O in place of 'none'"),
    "tokens and tags joined by a slash": (
        "Otto/B-PER slept/O\nAnn/B-PER left/O\n", "A slash joins its tokens and tags, e.g. 'Otto/B-PER'"),
    "categories first": ("PER Otto\nPER Kern\nO in\nO of\n", "--token-column 2 --tag-column 1"),
    "an unknown header of CSV": ("wort,art\nOtto,B-PER\n", "--token-column 'wort' --tag-column 'art'"),
    "an address": ('{"text": "https://example.org/a.txt", "label": [[0, 2, "PER"]]}', "URL"),
    "tags in the middle": ("Otto B-PER x\nin O y\n", "column 2"),
    "two columns of tags": ("Otto B-PER B-LOC\nin O O\n", "column 2 and column 3"),
    "plain text": ("林月在苏州。\n苏州很美。\n", "its format is unknown"),
    "a table without annotations": ('{"id": 3, "price": 7}', "fields id, price"),
    "inclusive without surfaces": ('{"text": "林月", "label": [[1, 1, "PER"]]}', "--end inclusive"),
    "UTF-16 past the end": ('{"text": "😀林月", "label": [[2, 4, "PER"]]}', "--offset-unit utf16"),
    "several lists": ('{"train": [{"text": "a"}], "dev": [{"text": "b"}]}', "'train', 'dev'"),
    "no text": ('{"a": 3, "label": [[0, 1, "x"]]}', 'no "text"'),
    "numbers in the first column": (
        "1-1\tOtto\tB-PER\n1-2\tslept\tO\n2-1\tMainz\tB-LOC\n", "--token-column 2"),
    "numbers as tags": ("the 0\ncat 0\nsat 1\n", "its format is unknown"),
    "a label per text": ("text\tlabel\nvery good\tgood\nvery bad\tO\n", "one label per text"),
    "relations only": ('{"text": "林月在苏州", "spo_list": [{"subject": "林月"}]}', "'spo_list' looks like"),
    "annotations in an object": (
        '{"text": "林月", "result": {"ner": [[0, 2, "PER"]]}}', "'result' looks like annotations"),
    "objects that repeat the text": (
        '{"text": "林月在苏州", "found": [{"what": "林月"}]}', "'found' looks like"),
    "annotations beside an empty list": (
        '{"text": "林月", "label": [], "entities": ["林月"]}', "'entities' looks like"),
    "rejected only": ('{"text": "林月", "spans": [], "answer": "reject"}', "answer 'reject', left out: 1"),
    "spans in a CSV": (
        'text,label\n"Otto slept","[{""start"": 0, ""end"": 4, ""labels"": [""PER""]}]"\n',
        "Export the annotations as JSON"),
    "offsets in a CSV": ("text,label,start_offset\nOtto slept,PER,0\n", "Export the annotations as JSON"),
    "numbers in a CSV": ("token,tag\nOtto,1\nslept,2\n", "'tag' are numbers"),
    "a CSV without a header": ("Otto,B-PER\nslept,O\n", "CSV needs a first line"),
    "an unknown header": ("wort\tart\nOtto\tB-PER\nslept\tO\nin\tO\n", "--token-column 'wort'"),
    "tags first": ("B-PER Otto\nO slept\nO in\n", "--token-column 2 --tag-column 1"),
    "a text without its tokens": (f"# text = a\n\n{columns()}", "a text without tokens"),
    "underscores in place of categories": (
        "1\tDogs\tNOUN\tSpaceAfter=No\n2\tbark\tVERB\t_\n", "its format is unknown"),
    "entities of tokens without offsets": (
        '{"text": "Otto slept", "tokens": [{"text": "Otto", "ner": "PER"}]}', "'tokens' looks like"),
    "cp1252": ("Müller B-PER\nschläft O\n".encode("cp1252"), "CP1252"),
    "prefixes in a column of their own": ("Otto B PER\nAnn B PER\nin O O\n", "has the prefixes B, I and O"),
    "prefixes without categories": ("ade B\npoly I\nof O\n", "Its tags have no category"),
    "an unpaired quotation mark": ('word,tag\n",O\nOtto,B-PER\n",O\n', "a token with a line break"),
    "glued prefixes": ("林 BPER\n月 IPER\n在 O\n", "its format is unknown"),
    "annotations apart from texts": (
        '{"documents": [{"id": 1, "text": "林月"}], "annotations": [{"doc_id": 1, "start": 0, "end": 2}]}',
        "apart from their texts"),
    "a split table of pandas": ('{"columns": ["text"], "data": [["林月"]]}', "orient='records'"),
    "unknown tags of tokens": ('{"tokens": ["林", "月"], "NER": ["PER", "PER"]}', "'NER' looks like"),
    "a row for each entity": (
        '{"text": "林月", "begin": 0, "end": 2, "category": "PER"}', "the row describes one entity"),
    "pairs of surface and category": ('{"text": "林月在", "marks": [["林月", "PER"]]}', "'marks' looks like"),
    "a tab at the end of lines": (
        "a\tO\t\n" * 60 + "Bob\tB-PER\t\n", "--token-column 1 --tag-column 2"),
    "an empty tag": ("token,tag\nOtto,B-PER\nslept,\nin,O\n", "Write O in place of ''"),
    "offsets under unknown names": (
        '{"text": "林月", "标注": [{"开始": 0, "结束": 2, "类别": "PER"}]}', "'标注' looks like annotations"),
    "an offset and a length": (
        '{"text": "林月", "marks": [{"offset": 0, "length": 2, "what": "PER"}]}', "'marks' looks like"),
    "ranges": ('{"text": "林月", "items": [{"id": 1, "loc": "0-2", "what": "PER"}]}', "'items' looks like"),
    "a text that is null": ('{"text": null, "label": [[0, 1, "PER"]]}', "'text' is null"),
    "an empty span": ('{"text": "林月", "label": [[1, 1, "PER"]]}', "Delete this empty span"),
    "an inclusive end that is outside the text": (
        '[{"text": "林月", "entities": [{"start_idx": 0, "end_idx": 2, "type": "PER"}]}]',
        "The file has [0, 2], read with `end` inclusive. If it is exclusive"),
    "CLUENER with exclusive ends": (
        '{"text": "林月在苏州", "label": {"PER": {"林月": [[0, 2]]}}}', "read it with --end exclusive"),
    "a text that NER Annotator skipped": (
        '{"classes": ["PER"], "annotations": [["林月", {"entities": [[0, 2, "PER"]]}], null]}',
        "row 2: is null"),
    "fewer tags than characters": (
        '{"text": "林月", "labels": ["B-PER", "I-PER"]}\n'
        '{"text": "林月在苏州", "labels": ["B-PER", "I-PER", "O"]}',
        '"labels" has 3 tags, but "text" has 5 characters and 1 words'),
    "surfaces by category": ('{"text": "林月在", "found": {"PER": ["林月"]}}', "'found' looks like"),
    "a name in place of the text": (
        '{"filename": "report.txt", "toks": [1], "entities": [[0, 2, "PER"]]}', 'no "text"'),
    "Korean": ("김철수는 서울에서 일한다\n".encode("cp949"), "EUC-KR"),
    "spans in another field": (
        '{"text": "林月", "entities": [], "events": [{"start": 0, "end": 2, "type": "X"}]}',
        "spans in 'events', but none in 'entities'"),
    "IO tags under an unknown name": ('{"text": "林月", "seq": ["PER", "O"]}', "'seq' looks like"),
    "prefixes written out": ("林 START_PER\n月 END_PER\n在 O\n", "its format is unknown"),
    "CR line ends": (columns().replace("\n", "\r"), "line ends are CR alone"),
    "a PDF": (b"%PDF-1.7 and more", "is a PDF file"),
    "an empty category": ('{"text": "林", "label": {"": {"林": [[0, 0]]}}}', "Give a non-empty string"),
    "GBK": (columns().encode("gbk"), "GB18030"),
    "UTF-16": (columns().encode("utf-16"), "UTF-16"),
    "HyperText": (
        '[{"text": "<p>a</p>", "label": [{"start": "/p", "end": "/p", "hypertextlabels": ["x"]}]}]',
        "HyperText"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_form_is_refused_by_name(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, data)
    assert message in str(error.value)
