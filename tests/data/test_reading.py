"""Forms of annotation files that tools and published data sets have, and the options for reading them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data.detection import detect_format
from flax_ner.data.formats import FORMATS, read_examples
from flax_ner.data.span_rows import SPAN_FORMATS
from flax_ner.errors import UserError
from tests.data.reading import EXPECTED, TEXT, columns, read, spans

READ = {
    "GermEval": (
        "#\tsource [2012]\n1\tOtto\tB-PER\tO\n2\tKern\tI-PER\tB-PER\n\n1\tMainz\tB-LOC\tO\n",
        [("Otto Kern", [("PER", 0, 9)]), ("Mainz", [("LOC", 0, 5)])], "tags in column '?3"),
    "Universal NER": (
        "# sent_id = 0\n# text = Otto in Mainz\n1\tOtto\tB-PER\t-\tx\n2\tin\tO\t-\tx\n3\tMainz\tB-LOC\t-\tx\n",
        [("Otto in Mainz", [("LOC", 8, 13), ("PER", 0, 4)])], "tokens in column 2, tags in column 3"),
    "CoNLL-2003": (
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n", [("EU rejects", [("ORG", 0, 2)])],
        "columns of words, BIO\\."),
    "digits of segmentation": (
        "林0\tB-PER\n月1\tI-PER\n在0\tO\n苏0\tB-LOC\n州1\tI-LOC\n20\tO\n",
        [(f"{TEXT}2", EXPECTED[0][1])], "digits after characters"),
    "no prefix": (columns("", ""), EXPECTED, "spelled '(PER|LOC)'"),
    "underscores": (columns("B_", "I_"), EXPECTED, "spelled"),
    "lower case": (columns("b-", "i-", "o"), EXPECTED, "spelled"),
    "zero for O": (columns(o="0"), EXPECTED, ""),
    "prefix last": ("林 PER-B\n月 PER-I\n在 O\n苏 LOC-B\n州 LOC-I\n", EXPECTED, "spelled"),
    "two schemes": (
        "林 B-PER\n月 E-PER\n在 O\n苏 B-LOC\n州 I-LOC\n在 O\n", [(f"{TEXT}在", EXPECTED[0][1])], ""),
    "a CSV": (
        "Sentence #,Word,POS,Tag\nSentence: 1,Otto,N,B-PER\n,in,P,O\nSentence: 2,\"1,5\",N,O\n",
        [("Otto in", [("PER", 0, 4)]), ("1,5", [])], "CSV of words"),
    "a CSV with an id on every row": (
        "sentence_id,word,label\n0,Otto,B-PER\n0,in,O\n1,Mainz,B-LOC\n",
        [("Otto in", [("PER", 0, 4)]), ("Mainz", [("LOC", 0, 5)])], "CSV of words"),
    "a TSV with a header": (
        "token\tner\nOtto\tB-PER\n\nMainz\tB-LOC\n",
        [("Otto", [("PER", 0, 4)]), ("Mainz", [("LOC", 0, 5)])], "TSV of words"),
    "a sentence per row": (
        "text_a\tlabel\n林\x02月\x02在\tB-PER\x02I-PER\x02O\n苏\x02州\tB-LOC\x02I-LOC\n",
        [("林月在", [("PER", 0, 2)]), ("苏州", [("LOC", 0, 2)])], "TSV of characters"),
    "PaddleNLP UIE": (
        '{"content": "林月在苏州", "prompt": "PER", "result_list": [{"text": "林月", "start": 0, "end": 2}]}\n'
        '{"content": "林月在苏州", "prompt": "LOC", "result_list": [{"text": "苏州", "start": 3, "end": 5}]}\n',
        EXPECTED, "UIE"),
    "token spans, W2NER": (
        '[{"sentence": ["林", "月", "在", "苏", "州"], "ner": [{"index": [0, 1], "type": "PER"}, '
        '{"index": [3, 4], "type": "LOC"}], "word": [[0, 1], [2], [3, 4]]}]', EXPECTED, ""),
    "token spans, SpERT": (
        '[{"tokens": ["Otto", "in", "New", "York"], "entities": [{"type": "LOC", "start": 2, "end": 4}], '
        '"relations": []}]', [("Otto in New York", [("LOC", 8, 16)])], "`end` exclusive"),
    "a name for everything": (
        '{"Body": "林月在苏州", "marks": [{"begin": 0, "stop": 2, "category": "PER", "surface": "林月"}, '
        '{"begin": 3, "stop": 5, "category": "LOC", "surface": "苏州"}], "day": "2024-01-01"}', EXPECTED, ""),
    "inclusive by surface": (
        '{"text": "林月在苏州", "entities": [{"start": 0, "end": 1, "type": "PER", "word": "林月"}, '
        '{"start": 3, "end": 4, "type": "LOC", "word": "苏州"}]}', EXPECTED, "`end` inclusive"),
    "the category first": ('{"text": "林月在苏州", "ner": [["PER", 0, 2], ["LOC", 3, 5]]}', EXPECTED, ""),
    "an offset pair": (
        '{"text": "林月在苏州", "entities": [{"span": [0, 2], "label": "PER"}, '
        '{"offsets": [[3, 5]], "label": "LOC"}]}', EXPECTED, ""),
    "spaCy pairs": ('[["林月在苏州", {"entities": [[0, 2, "PER"], [3, 5, "LOC"]]}]]', EXPECTED, "spaCy"),
    "spaCy pairs in an object": (
        '{"classes": ["PER"], "annotations": [["林月在苏州", {"entities": [[0, 2, "PER"], [3, 5, "LOC"]]}]]}',
        EXPECTED, "spaCy"),
    "an object with rows": (
        '{"version": 1, "data": [{"text": "林月在苏州", "label": [[0, 2, "PER"], [3, 5, "LOC"]]}]}',
        EXPECTED, ""),
    "an object by id": (
        '{"7": {"text": "林月在苏州", "label": [[0, 2, "PER"], [3, 5, "LOC"]]}, '
        '"8": {"text": "无", "label": []}}',
        [*EXPECTED, ("无", [])], ""),
    "indented objects": (
        json.dumps({"text": TEXT, "label": [[0, 2, "PER"], [3, 5, "LOC"]]}, indent=2), EXPECTED, "doccano"),
    "tags of the characters of a text": (
        '{"text": "林月在苏州", "labels": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]}', EXPECTED, "tokens"),
    "other names for tokens": (
        '{"words": ["林", "月", "在", "苏", "州"], "iob": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]}',
        EXPECTED, ""),
    "separators without a header": (
        "林\x02月\x02在\tB-PER\x02I-PER\x02O\n苏\x02州\tB-LOC\x02I-LOC\n",
        [("林月在", [("PER", 0, 2)]), ("苏州", [("LOC", 0, 2)])], "characters"),
    "a CSV with a sentence per row": (
        "text,labels\nOtto slept,B-per O\nAnn left,B-per O\n",
        [("Otto slept", [("per", 0, 4)]), ("Ann left", [("per", 0, 3)])], "CSV of words"),
    "a slash": ("林 B/PER\n月 I/PER\n在 O\n苏 B/LOC\n州 I/LOC\n", EXPECTED, "spelled 'B/"),
    "a category like a tag": ("a@b.c e-mail\nto O\nme O\n", [("a@b.c to me", [("e-mail", 0, 5)])], "spelled"),
    "only ends are marked": (
        "林 I-PER\n月 E-PER\n在 O\n苏 I-LOC\n州 E-LOC\n", EXPECTED, "IOE"),
    "chunks": ("Otto B-NP\nslept B-VP\n", [("Otto slept", [("NP", 0, 4), ("VP", 5, 10)])], "syntactic chunks"),
    "token spans beside a text": (
        '{"text": "Otto Kern slept", "tokens": ["Otto", "Kern", "slept"], '
        '"entities": [{"start": 0, "end": 2, "type": "PER"}]}',
        [("Otto Kern slept", [("PER", 0, 9)])], "spans count tokens"),
    "inclusive token spans": (
        '{"tokens": ["Otto", "Kern", "in", "Mainz"], "ner": [[0, 1, "PER"], [3, 3, "LOC"]]}',
        [("Otto Kern in Mainz", [("LOC", 13, 18), ("PER", 0, 9)])], "`end` inclusive"),
    "the surface before the category": (
        '{"text": "林月在苏州", "entities": [[0, 2, "林月", "PER"], [3, 5, "苏州", "LOC"]]}', EXPECTED, ""),
    "the type of the entity beside another": (
        '{"text": "林月在苏州", "entities": [{"type": "NAM", "entity_type": "PER", "start": 0, "end": 2}, '
        '{"type": "NAM", "entity_type": "LOC", "start": 3, "end": 5}]}', EXPECTED, ""),
    "a name for the surface": (
        '{"text": "林月在苏州", "entities": [{"name": "林月", "type": "PER", "start": 0, "end": 1}, '
        '{"name": "苏州", "type": "LOC", "start": 3, "end": 4}]}', EXPECTED, "`end` inclusive"),
    "an object with metadata": (
        '{"version": "1.0", "data": [{"tokens": ["林", "月", "在"], "ner_tags": ["B-PER", "I-PER", "O"]}]}',
        [("林月在", [("PER", 0, 2)])], "tokens"),
    "UTF-16 offsets": (
        '{"text": "😀林月在苏州", "label": [[2, 4, "PER", "林月"], [5, 7, "LOC", "苏州"]]}',
        [(f"😀{TEXT}", [("LOC", 4, 6), ("PER", 1, 3)])], "UTF-16 offsets, converted"),
    "CR LF as one": (
        '{"text": "好\\r\\n林月在苏州", "label": [[2, 4, "PER", "林月"], [5, 7, "LOC", "苏州"]]}',
        [(f"好\r\n{TEXT}", [("LOC", 6, 8), ("PER", 3, 5)])], "CR LF as one character, converted"),
    "GLiNER": (
        '{"tokenized_text": ["Otto", "Kern", "slept"], "ner": [[0, 1, "PER"]]}',
        [("Otto Kern slept", [("PER", 0, 9)])], "`end` inclusive"),
    "token spans that all files of the form have": (
        '{"text": "a b cd", "tokens": ["a", "b", "cd"], "entities": [{"start": 0, "end": 1, "type": "X"}]}\n'
        '{"text": "Otto Kern slept", "tokens": ["Otto", "Kern", "slept"], '
        '"entities": [{"start": 0, "end": 2, "type": "PER"}]}\n',
        [("a b cd", [("X", 0, 1)]), ("Otto Kern slept", [("PER", 0, 9)])], "spans count tokens.*: 2"),
    "entities in tokens": (
        '[{"document": "Otto slept", '
        '"tokens": [{"text": "Otto", "start": 0, "end": 4, "entityLabel": "PER"}]}]',
        [("Otto slept", [("PER", 0, 4)])], ""),
    "the surface under the name of a category": (
        '{"text": "林月在苏州", "entities": [{"label": "林月", "type": "PER", "start": 0, "end": 2}, '
        '{"label": "苏州", "type": "LOC", "start": 3, "end": 5}]}', EXPECTED, ""),
    "camel case": (
        '{"text": "林月在苏州", "entities": [{"entityType": "PER", "startOffset": 0, "endOffset": 2}, '
        '{"entityType": "LOC", "startOffset": 3, "endOffset": 5}]}', EXPECTED, ""),
    "a dash for O": (columns(o="-"), EXPECTED, "spelled"),
    "an underscore for O": (columns(o="_"), EXPECTED, "spelled"),
    "a URL among characters and digits": (
        "".join(f"{c}0 O\n" for c in "看林月在苏州的网页吧") + "http://a.b/c0 O\n\n林0 B-PER\n月1 I-PER\n",
        [("看林月在苏州的网页吧http://a.b/c", []), ("林月", [("PER", 0, 2)])], "digits after characters"),
    "a licence before the first sentence": (
        f"# licence: free\n\n{columns()}", EXPECTED, "comments, left out: 1"),
    "blank lines before the header": (
        "\n\ntoken,tag\nOtto,B-PER\nslept,O\n", [("Otto slept", [("PER", 0, 4)])], "CSV of words"),
    "line separators in a cell": (
        "token,tag\na\u2028b,B-X\nc\u0085d,O\n", [("a\u2028b c\u0085d", [("X", 0, 3)])], "CSV of words"),
    "offsets of bytes": (
        '{"text": "café Rome is big", "label": [[6, 10, "LOC"]]}',
        [("café Rome is big", [("LOC", 6, 10)])], "begin or end within a word: 1"),
    "unlabelled tokens of Prodigy": (
        '{"text": "Otto", "spans": [], "_input_hash": 1, '
        '"tokens": [{"text": "Otto", "start": 0, "end": 4, "id": 0}]}',
        [("Otto", [])], "Prodigy"),
    "sentence numbers": (
        "1\tOtto\tB-PER\n1\tslept\tO\n2\tMainz\tB-LOC\n2\tis\tO\n",
        [("Otto slept", [("PER", 0, 4)]), ("Mainz is", [("LOC", 0, 5)])], "texts by column 1"),
    "names of documents": (
        "d1\tOtto\t0\tB-PER\nd1\tslept\t5\tO\nd2\tMainz\t9\tB-LOC\nd2\tis\t15\tO\n",
        [("Otto slept", [("PER", 0, 4)]), ("Mainz is", [("LOC", 0, 5)])], "texts by column 1"),
    "a surface under an unknown name": (
        '{"text": "林月在苏州", "entities": [{"start": 0, "end": 1, "type": "PER", "term": "林月"}, '
        '{"start": 3, "end": 4, "type": "LOC", "phrase": "苏州"}]}', EXPECTED, "`end` inclusive"),
    "a category under a name that is unknown": (
        '{"text": "林月在苏州", "entities": [{"start": 0, "end": 2, "entity": "林月", "tag_name": "PER"}, '
        '{"start": 3, "end": 5, "entity": "苏州", "tag_name": "LOC"}]}', EXPECTED, ""),
    "surfaces of token spans": (
        '{"tokens": ["Otto", "Kern", "slept"], '
        '"entities": [{"start": 0, "end": 1, "type": "PER", "text": "Otto Kern"}]}',
        [("Otto Kern slept", [("PER", 0, 9)])], "`end` inclusive"),
    "character offsets beside tokens": (
        '{"tokens": ["Otto", "Kern", "slept"], '
        '"entities": [{"start": 0, "end": 9, "type": "PER", "text": "Otto Kern"}]}',
        [("Otto Kern slept", [("PER", 0, 9)])], "`end` exclusive"),
    "other names for tokens beside a text": (
        '{"text": "林月在苏州", "words": ["林月", "在", "苏州"], "entities": ['
        '{"start": 2, "end": 3, "type": "LOC"}, {"start": 0, "end": 1, "type": "PER"}]}',
        EXPECTED, "count tokens"),
    "a document of spaCy": (
        '{"text": "Cats sleep", "ents": [], '
        '"tokens": [{"id": 0, "start": 0, "end": 4, "tag": "NNS", "pos": "N"}]}',
        [("Cats sleep", [])], ""),
    "predictions beside annotations": (
        '{"text": "林月在苏州", "ner.responses": [[{"label": "PER", "start": 0, "end": 2}, '
        '{"label": "LOC", "start": 3, "end": 5}]], "ner.suggestion": [{"label": "X", "start": 0, "end": 1}]}',
        EXPECTED, "'ner.suggestion', left out"),
    "a rejected span": (
        '{"text": "林月在苏州", "spans": [{"start": 0, "end": 2, "label": "PER"}, '
        '{"start": 3, "end": 5, "label": "LOC"}, {"start": 2, "end": 3, "label": "X", "answer": "reject"}]}',
        EXPECTED, "spans with the answer 'reject', left out: 1"),
    "tags in spans": (
        '{"text": "Otto Kern", "entities": [{"entity": "B-PER", "word": "Otto", "start": 0, "end": 4}]}',
        [("Otto Kern", [("B-PER", 0, 4)])], "a category like a tag"),
    "characters preferred to tokens": (
        '{"text": "林月在苏州", "spans": ['
        '{"start": 0, "end": 1, "start_char": 0, "end_char": 2, "label": "PER"}, '
        '{"start": 2, "end": 3, "start_char": 3, "end_char": 5, "label": "LOC"}]}', EXPECTED, ""),
    "no entities in a field that others have": (
        '{"text": "林月在苏州", "Marked": [[0, 2, "PER"], [3, 5, "LOC"]]}\n{"text": "无", "Marked": []}\n',
        [*EXPECTED, ("无", [])], ""),
    "lower-case prefixes at the end": (
        "林 per_b\n月 per_e\n在 o\n苏 loc_b\n州 loc_e\n", [(TEXT, [("per", 0, 2), ("loc", 3, 5)])],
        "BIOES|BMES"),
    "a first line that may be a header": (
        "字\t类\n林\tPER\n月\tPER\n在\tO\n", [("字林月在", [("PER", 1, 3), ("类", 0, 1)])],
        "if it is a header"),
    "a repeated header": (
        "sid,word,label\n0,Otto,B-PER\n0,slept,O\nsid,word,label\n1,Mainz,B-LOC\n",
        [("Otto slept", [("PER", 0, 4)]), ("Mainz", [("LOC", 0, 5)])], "repeated headers, left out: 1"),
    "two columns that name the text": (
        "doc_id,Sentence No,word,tag\na,1,Otto,B-PER\na,1,slept,O\nb,1,Mainz,B-LOC\n",
        [("Otto slept", [("PER", 0, 4)]), ("Mainz", [("LOC", 0, 5)])], "CSV of words"),
    "a separator line of Excel": (
        "sep=;\nword;tag\nOtto;B-PER\n", [("Otto", [("PER", 0, 4)])], "CSV of words"),
    "tags chosen by content": (
        "word,tag,label\nOtto,NNP,B-PER\n", [("Otto", [("PER", 0, 4)])], "column 'label'"),
    "spaces after a tag": ("word,tag\nOtto,PER \nKern,PER\nin,O\n", [("Otto Kern in", [("PER", 0, 9)])], ""),
    "pieces of words": ("Jo B-PER\n##hn I-PER\n", [("Jo ##hn", [("PER", 0, 7)])], "pieces of words"),
    "tags in a string": (
        '{"sentence": "林月在苏州", "BIO_label": "B-PER I-PER O B-LOC I-LOC"}', EXPECTED, "tokens"),
    "GLiNER with the list of categories": (
        '{"tokenized_text": ["Otto", "Kern", "slept"], "ner": [[0, 1, "PER"]], "label": ["PER", "LOC"]}\n'
        '{"tokenized_text": ["it", "is"], "ner": []}\n{"tokenized_text": ["so"], "ner": []}\n',
        [("Otto Kern slept", [("PER", 0, 9)]), ("it is", []), ("so", [])], "`end` inclusive"),
    "one task of Label Studio": (
        '{"id": 1, "data": {"text": "林月在苏州"}, "annotations": [{"id": 2, "result": [{"type": "labels", '
        '"value": {"start": 0, "end": 2, "labels": ["PER"]}}, {"type": "labels", '
        '"value": {"start": 3, "end": 5, "labels": ["LOC"]}}]}], "prediction": {}}', EXPECTED, "Label Studio"),
    "regions of another field": (
        '[{"data": {"title": "林", "text": "林月在苏州"}, "annotations": [{"result": ['
        '{"type": "labels", "to_name": "text", "value": {"start": 0, "end": 2, "labels": ["PER"]}}, '
        '{"type": "labels", "to_name": "text", "value": {"start": 3, "end": 5, "labels": ["LOC"]}}, '
        '{"type": "labels", "to_name": "title", "value": {"start": 0, "end": 1, "labels": ["X"]}}]}]}]',
        EXPECTED, "regions of the data field 'title', left out: 1"),
    "a surface without a span": (
        '{"text": "林月", "label": {"PER": {"林月": []}}}', [("林月", [])], "surfaces without a span"),
    "a combining character": (
        '{"text": "❤\ufe0f林月", "label": [[1, 3, "PER"]]}', [("❤\ufe0f林月", [("PER", 1, 3)])], "combining"),
    "byte order marks of files that were joined": (
        f"\ufeff{columns()}\n\ufeff{columns()}", EXPECTED * 2, "byte order marks within the file, left out: 1"),
    "document boundaries in lower case": (f"-docstart- O\n\n{columns()}", EXPECTED, "document boundaries"),
    "spans of the category O": (
        '{"text": "林月在苏州", "label": [[0, 2, "PER"], [2, 3, "O"], [3, 5, "LOC"]]}', EXPECTED,
        "category 'O', left out: 1"),
    "words under an unknown name": (
        '{"text": "林月在苏州", "segments": ["林月", "在", "苏州"], "entities": ['
        '{"start": 0, "end": 1, "type": "PER"}, {"start": 2, "end": 3, "type": "LOC"}]}',
        EXPECTED, "count tokens"),
    "a category that the text has": (
        '{"text": "The Gene BRCA", "spans": [{"start": 4, "end": 8, "label": "Gene", "id": "T7", '
        '"source": "m"}]}',
        [("The Gene BRCA", [("Gene", 4, 8)])], ""),
    "short token spans": (
        '{"text": "林月在苏州", "tokens": ["林月", "在", "苏州"], "entities": [{"start": 0, "end": 1, '
        '"type": "PER"}, '
        '{"start": 2, "end": 3, "type": "LOC"}]}', EXPECTED, "count tokens"),
    "token spans after many texts without": (
        '{"tokenized_text": ["是"], "ner": []}\n' * 1001 + '{"tokenized_text": ["林月", "在"], "ner": [[0, '
        '0, "X"]]}',
        [*[("是", [])] * 1001, ("林月在", [("X", 0, 2)])], "GLiNER JSON, `end` inclusive"),
    "numbers of rows": (
        "S.No,Word,Tag\n1,Otto,PER\n2,Kern,PER\n3,in,O\n", [("Otto Kern in", [("PER", 0, 9)])], "CSV of words"),
    "a blank sentence cell": (
        "Sentence #,Word,Tag\n1,Otto,PER\n ,Kern,PER\n2,in,O\n",
        [("Otto Kern", [("PER", 0, 9)]), ("in", [])], "CSV of words"),
    "predictions alone": (
        '{"text": "林月在苏州", "predictions": [[0, 2, "PER"], [3, 5, "LOC"]]}', EXPECTED, ""),
    "an index within a longer token": (
        "".join(f"{c}0 O\n" for c in "看林月在苏州的网页吧") + "b123.c0 O\n",
        [("看林月在苏州的网页吧b123.c", [])], "digits"),
    "categories with words like prefixes": (
        "Otto first_name\nKern last_name\nslept O\n" * 2,
        [("Otto Kern slept Otto Kern slept", [("first_name", 0, 4), ("last_name", 5, 9), ("first_name", 16, 20),
                                              ("last_name", 21, 25)])], "spelled"),
    "a column of prefixes beside full tags": (
        "Otto NNP B B-PER\nKern NNP I I-PER\nslept VBD O O\n",
        [("Otto Kern slept", [("PER", 0, 9)])], ""),
    "a title as the text": (
        '{"title": "林月在苏州", "entities": [[0, 2, "PER"], [3, 5, "LOC"]]}', EXPECTED, ""),
    "names of the categories beside the data": (
        '{"labels": ["PER", "LOC"], "data": [{"text": "林月在苏州", "label": [[0, 2, "PER"], [3, 5, "LOC"]]}]}',
        EXPECTED, ""),
    "a name that has the text": (
        '{"name": "Otto set", "data": [{"text": "Otto", "label": [[0, 4, "PER"]]}]}',
        [("Otto", [("PER", 0, 4)])], ""),
    "an empty response": (
        '{"text": "林月在苏州", "ner.responses": [[{"label": "PER", "start": 0, "end": 2}, '
        '{"label": "LOC", "start": 3, "end": 5}]]}\n{"text": "无", "ner.responses": [[]]}',
        [*EXPECTED, ("无", [])], ""),
    "a tag with the name of a data field": (
        '[{"data": {"title": "好", "text": "林月在苏州"}, "annotations": [{"result": [{"type": "labels", '
        '"to_name": '
        '"title", "value": {"start": 0, "end": 2, "text": "林月", "labels": ["PER"]}}, {"type": "labels", '
        '"to_name": '
        '"title", "value": {"start": 3, "end": 5, "text": "苏州", "labels": ["LOC"]}}]}]}]', EXPECTED, ""),
    "quoted fields of a TSV": (
        'token\ttag\n"a ""b"""\tB-X\n","\tO\n""""\tO\n', [('a "b" , "', [("X", 0, 5)])],
        "TSV of words.*, quotes around fields removed"),
    "quoted fields without a header": (
        '1\t林\tB-PER\n2\t月\tI-PER\n3\t","\tO\n4\t""""\tO\n', [('林月,"', [("PER", 0, 2)])],
        "columns of characters.*, quotes around fields removed"),
    "a quoted word and an empty quotation in TSV": (
        '"Hello"\tO\nBob\tB-PER\n""\tO\n', [('"Hello" Bob ""', [("PER", 8, 11)])], "words, BIO\\.$"),
    "quotes around all fields of a TSV": (
        '"Otto"\t"B-PER"\n"slept"\t"O"\n', [("Otto slept", [("PER", 0, 4)])], "quotes around fields removed"),
    "a token that is a quotation mark": (
        'Otto\tB-PER\n"\tO\n"a"\tO\n', [('Otto " "a"', [("PER", 0, 4)])], "columns of words, BIO\\."),
    "a token of two quotation marks": (
        'Otto\tB-PER\n""\tO\n', [('Otto ""', [("PER", 0, 4)])], "columns of words, BIO\\."),
    "mostly sentences of one token": (
        "林\x02月\tB-PER\x02I-PER\n好\tO\n是\tO\n", [("林月", [("PER", 0, 2)]), ("好", []), ("是", [])], ""),
    "a sentence per line with spaces": (
        "林 月 在\tB-PER I-PER O\n苏 州\tB-LOC I-LOC\n\n无\tO\n",
        [("林月在", [("PER", 0, 2)]), ("苏州", [("LOC", 0, 2)]), ("无", [])], "columns of characters, BIO"),
    "emoji without surfaces": (
        '{"text": "😀林月在苏州", "label": [[1, 3, "PER"], [4, 6, "LOC"]]}',
        [(f"😀{TEXT}", [("LOC", 4, 6), ("PER", 1, 3)])], "may count UTF-16 units"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected", "note"), READ.values(), ids=READ)
def test_form_is_read_and_described(tmp_path: Path, data: str, expected: Any, note: str) -> None:
    examples, notes = read(tmp_path, data)
    assert examples == [(text, sorted(entities)) for text, entities in expected]
    assert notes.startswith("data: FILE is read as ")
    assert re.search(note, notes), notes


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("林 B-PER x\n月 I-PER y\n在 O y\n苏 B-LOC x\n州 I-LOC y\n", {"columns": ("1", "2")}),
        (
            "x 林 B-PER B-A\nx 月 I-PER O\nx 在 O O\nx 苏 B-LOC O\nx 州 I-LOC O\n",
            {"columns": ("2", "3")},
        ),
        (f"w,x\n{columns().replace(' ', ',')}", {"columns": ("w", "x")}),
        (columns().encode("gbk"), {"encoding": "gbk"}),
        (columns().encode("utf-16"), {"encoding": "utf-16"}),
        ('{"text": "林月在苏州", "label": [[0, 1, "PER"], [3, 4, "LOC"]]}', {"end": "inclusive"}),
        (
            '{"text": "林月在苏州", "label": {"PER": {"林月": [[0, 2]]}, "LOC": {"苏州": [[3, 5]]}}}',
            {"end": "exclusive"},
        ),
    ],
)
def test_options_say_what_the_content_does_not(
    tmp_path: Path, data: str | bytes, options: dict[str, Any]
) -> None:
    assert read(tmp_path, data, **options)[0] == [(TEXT, sorted(EXPECTED[0][1]))]


@pytest.mark.parametrize(
    ("field", "annotated"), [("spans", {"answer": "accept"}), ("label", {"annotation_id": 3})]
)
def test_annotated_text_without_the_field_of_the_others_has_no_entities(
    tmp_path: Path, field: str, annotated: dict[str, Any]
) -> None:
    span = {"start": 0, "end": 2, "text": "林月", "label": "PER", "labels": ["PER"]}
    rows = [
        {"text": "林月", field: [span]} | annotated,
        {"text": "在"} | annotated,
        {"text": "苏州"},
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    examples = read_examples(str(tmp_path / "data.json"), "auto")
    assert [e.entities is None for e in examples] == [False, False, True]


def test_metadata_with_numbers_is_not_taken_for_annotations(tmp_path: Path) -> None:
    row = {
        "text": "林月在苏州", "images": [{"width": 4, "height": 3, "url": "a.png"}],
        "votes": [{"id": 1, "likes": 2, "user": "a"}], "sizes": [1, 2], "keywords": ["林月"],
        "reviews": [{"user": "b", "stars": 4, "helpful": 3, "评分": 5, "点赞": 2}], "lines": [[0, 2], [3, 5]],
        "opening": {"hours": "1-3"}, "chapters": [{"title": "a", "section": 1, "page": 2}],
    }  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(row))
    assert read_examples(str(tmp_path / "data.json"), "cluener")[0].entities is None


def test_offsets_in_utf16_units_can_be_named(tmp_path: Path) -> None:
    data = '{"text": "😀林月", "label": [[2, 4, "PER"]]}'
    assert read(tmp_path, data, offset_unit="utf16")[0] == [("😀林月", [("PER", 1, 3)])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "nothing"}, "'nothing' is not an encoding"),
        ({"columns": ("1",)}, "Give two columns"),
        ({"columns": ("1", "9")}, "no column 9. The file has 2 columns"),
        ({"columns": ("1", "tag")}, "no column named 'tag'. The file has no header"),
        ({"encoding": "ascii"}, "is not ascii"),
    ],
)
def test_invalid_options_are_explained(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, columns(), **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "O Globo"},
        {"author_bio": "He writes books"},
        {"hash_tags": ["a", "b"]},
        {"start": 0},
        {"meta": {"keywords": ["林月"]}},
        {"pred": [[0, 2, "PER"]], "label": None},
    ],
)
def test_fields_of_an_unlabelled_text_that_are_no_annotations(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    (tmp_path / "data").write_text(json.dumps({"text": "林月在苏州"} | fields))
    (example,) = read_examples(str(tmp_path / "data"), "auto")
    assert (example.text, example.entities) == ("林月在苏州", None)


def test_surfaces_are_found_in_linear_time(tmp_path: Path) -> None:
    part, count = "😀林月在苏州的路上", 4000
    spans = [
        {"start": 9 * i + 1, "end": 9 * i + 3, "type": "X", "term": "林月"} for i in range(count)
    ]
    (tmp_path / "data").write_text(json.dumps({"text": part * count, "entities": spans}))
    began = time.process_time()
    (example,) = read_examples(str(tmp_path / "data"), "auto")
    assert len(example.entities or ()) == count
    assert time.process_time() - began < 5  # a scan of the text for each span takes minutes


def test_columns_of_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looks like doccano, .* Leave out --token-column"):
        read(tmp_path, '{"text": "林月", "label": [[0, 2, "PER"]]}', columns=("1", "2"))


def test_a_folder_with_the_data_in_subfolders_is_explained(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"in the subfolders train\. Give one of them, e\.g\. .*train\.$"
    ):
        read_examples(str(tmp_path), "auto")


def test_the_files_of_a_folder_without_documents_are_named(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.tsv", "dataset_info.json", "readme.md"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"has the files a\.tsv, b\.jsonl, .* e\.g\. .*a\.tsv\.$"):
        read_examples(str(tmp_path), "auto")


def test_the_printed_names_of_tags_are_accepted_when_filled_in(tmp_path: Path) -> None:
    data = '{"tokens": ["林", "月", "在", "苏", "州"], "ner_tags": [1, 2, 0, 3, 4]}'
    with pytest.raises(UserError, match=r"dataset_info\.json") as error:
        read(tmp_path, data)
    info = json.loads(str(error.value).split("of their numbers: ")[1])
    info["features"]["ner_tags"]["names"] = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert read(tmp_path, data)[0] == [(TEXT, sorted(EXPECTED[0][1]))]


def test_names_of_tags_are_found_in_a_data_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: ner_tags\n    sequence:\n      class_label:\n"
        "        names:\n          '0': O\n          '1': B-PER\n          '2': I-PER\n---\n# A data set\n"
    )
    data = '{"tokens": ["林", "月", "在"], "ner_tags": [1, 2, 0]}'
    assert read(tmp_path, data)[0] == [("林月在", [("PER", 0, 2)])]


@pytest.mark.parametrize("name", SPAN_FORMATS)
def test_the_example_of_a_format_is_detected_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(SPAN_FORMATS[name].example, "utf-8")
    assert name in FORMATS and detect_format(path) == name
    for data_format in ("auto", name):
        assert spans(read_examples(str(path), data_format)) == [("彭小军在台湾", [("name", 0, 3)])]


def test_data_without_jax() -> None:
    code = "import sys; from flax_ner.data import read, write, detect_format; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
