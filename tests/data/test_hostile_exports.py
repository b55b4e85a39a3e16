"""Exports as they should not be: each is read with everything counted, or refused with the file, the rule and the fix."""

import gzip
import io
import json
import tracemalloc
import zipfile

import pandas as pd
import pytest

from annot_hf.data import encoding
from annot_hf.data.own_votes import Reading, read_own_votes
from annot_hf.data.spellings import Aliases

TIDY = "item,rater,label\na,ann,joy\na,ben,sad\nb,ann,sad\n"


def studio(*annotations, **task):
    base = {"id": 7, "data": {"audio": "a.wav"}, "annotations": list(annotations)}
    return base | task


def said(label, by=1, kind="choices", **more):
    value = {kind: label if isinstance(label, list) else [label]} | (
        {"start": 0.1, "end": 0.9} if kind == "labels" else {}
    )
    result = {"id": "r1", "from_name": "emotion", "to_name": "audio", "type": kind, "value": value}
    return {"completed_by": by, "result": [result], "was_cancelled": False} | more


def lines(*records):
    return "\n".join(json.dumps(one) for one in records)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def damaged(content):
    """With other bytes in the middle."""
    half = len(content) // 2
    return content[:half] + bytes(255 - byte for byte in content[half : half + 40]) + content[half + 40 :]


def excel(*sheets):
    buffer = io.BytesIO()
    with pd.ExcelWriter(buffer) as writer:
        for number, rows in enumerate(sheets):
            pd.DataFrame(rows).to_excel(writer, sheet_name=f"s{number}", index=False, header=False)
    return buffer.getvalue()


def prodigy(answer="accept", by="db-ann", **more):
    return {"text": "hi", "_input_hash": 1, "_task_hash": 2, "answer": answer, "_annotator_id": by} | more


# Name, content, what the user says, votes that are read, and what is left out or repaired with its count and votes.
READ = {
    "byte order mark": ("v.csv", b"\xef\xbb\xbf" + TIDY.encode(), {}, 3, {}),
    "semicolons": ("v.csv", TIDY.replace(",", ";"), {}, 3, {}),
    "bars": ("v.txt", TIDY.replace(",", "|"), {}, 3, {}),
    "tabs in a .csv": ("v.csv", TIDY.replace(",", "\t"), {}, 3, {}),
    "UTF-16": ("v.csv", TIDY.encode("utf-16"), {}, 3, {}),
    "UTF-16 that a spreadsheet calls Unicode text": ("v.txt", TIDY.replace(",", "\t").encode("utf-16"), {}, 3, {}),
    "Windows-1252": (
        "v.csv",
        TIDY.replace("joy", "fröhlich").encode("cp1252"),
        {},
        3,
        {"files that are not UTF-8 and are read as Windows-1252": (1, 0)},
    ),
    "header of other case": ("v.csv", TIDY.replace("item,rater,label", " Item ,RATER_ID,Label"), {}, 3, {}),
    "windows line ends": ("v.csv", TIDY.replace("\n", "\r\n"), {}, 3, {}),
    "old mac line ends": ("v.csv", TIDY.replace("\n", "\r"), {}, 3, {}),
    "blank lines": ("v.csv", "\n" + TIDY.replace("\na,ben", "\n\n,,\na,ben"), {}, 3, {}),
    "extra column": (
        "v.csv",
        "item,rater,label,when\na,ann,joy,1\na,ben,sad,2\n",
        {},
        2,
        {"columns that are not read": (1, 0)},
    ),
    "column without a name": (
        "v.csv",
        ",item,rater,label\n0,a,ann,joy\n1,a,ben,sad\n",
        {},
        2,
        {"columns that are not read": (1, 0)},
    ),
    "short rows": (
        "v.csv",
        "item,rater,label,note\na,ann,joy\na,ben,sad,x\n",
        {},
        2,
        {"rows shorter than the header, which count as blank at the end": (1, 0), "columns that are not read": (1, 0)},
    ),
    "nested quotes": ("v.csv", 'item,rater,label\na,"ann ""the ear"" b",joy\na,ben,"sad, or\nnot"\n', {}, 2, {}),
    "HTML in names": ("v.csv", "item,rater,label\na,<b>ann</b><script>,joy\na,ben,sad &amp; <i>low</i>\n", {}, 2, {}),
    "formula in a cell": ("v.csv", "item,rater,label\na,=cmd|' /C calc'!A0,joy\na,ben,sad\n", {}, 2, {}),
    "a comment of each rater": (
        "v.csv",
        "item,rater,label,comment\na,ann,joy,noisy\na,ben,sad,short\n",
        {},
        2,
        {"columns that are not read": (1, 0)},
    ),
    "an answer in a column that is usually something else": (
        "v.csv",
        "item,rater,speaker,label\na,ann,he,1\na,ben,she,1\n",
        {"value": ["speaker"]},
        2,
        {"columns that are not read": (1, 0)},
    ),
    "a number for each row that is called question": (
        "v.csv",
        "item,rater,label,question_id\n" + "".join(f"i{n},ann,{'xy'[n % 2]},{n}\n" for n in range(80)),
        {},
        80,
        {"columns that are not read": (1, 0)},
    ),
    "tidy that looks wide": (
        "v.csv",
        "clip,label,r1,r2\na,joy,joy,sad\nb,sad,joy,sad\n",
        {"format": "tidy"},
        2,
        {"columns that are not read": (2, 0)},
    ),
    "spaces around items": (
        "v.csv",
        TIDY.replace("a,ben", " a ,ben"),
        {},
        3,
        {"item names with spaces around them, which are left out": (1, 0)},
    ),
    "blank choices": (
        "p.json",
        json.dumps([studio(said("joy"), said("sad", by=2), said([" ", None], by=3))]),
        {},
        2,
        {"answers that are blank": (2, 0)},
    ),
    "rows without an answer": ("v.csv", TIDY + "c,ann,\nc,ben,  \n", {}, 3, {"rows without an answer": (2, 0)}),
    "rows without an item": ("v.csv", TIDY + ",ann,joy\n", {}, 3, {"rows without an item": (1, 1)}),
    "rows without a rater": (
        "v.csv",
        TIDY + "c,,joy\n",
        {},
        4,
        {"votes without a rater, which count as anonymous": (1, 0)},
    ),
    "NA for no answer": (
        "v.csv",
        TIDY + "c,ann,NA\nc,ben,nan\n",
        {},
        3,
        {"answers that say that there is none": (2, 2)},
    ),
    "NA that is a label": ("v.csv", TIDY + "c,ann,NA\n", {"aliases": Aliases({"label": {"NA": "NA"}})}, 4, {}),
    "decimal commas": ("v.csv", "item;rater;rating\na;ann;1,5\na;ben;2\nb;ann;3,5\n", {}, 3, {}),
    "answers off the scale": (
        "v.csv",
        "item,rater,rating\na,ann,1\na,ben,9\nb,ann,3\n",
        {"question": ["rating=1..5"]},
        2,
        {"answers that do not fit --question": (1, 1)},
    ),
    "labels that were not asked for": (
        "v.csv",
        TIDY + "b,ben,typo\n",
        {"question": ["emotion=joy,sad"]},
        3,
        {"answers that do not fit --question": (1, 1)},
    ),
    "wide, with an empty rater": ("v.csv", "clip,r1,r2,r3\na,joy,sad,\nb,joy,joy,\n", {}, 4, {}),
    "wide, with a column of answers for every question": (
        "v.csv",
        "clip,mood_1,mood_2,tone_1,tone_2\na,joy,sad,low,high\nb,sad,joy,low,low\n",
        {},
        8,
        {},
    ),
    "counts with floats": ("v.csv", "clip,joy,sad\na,3.0,0.0\nb,1.0,2.0\n", {"format": "counts"}, 6, {}),
    "counts that are named": (
        "v.csv",
        "clip,joy,sad,n,level\na,1,2,3,5\na,0,1,1,4\n",
        {"format": "counts", "value": ["joy", "sad"]},
        4,
        {"rows that repeat an item, whose counts are added": (1, 0), "columns that are not read": (2, 0)},
    ),
    "raters by a pattern": (
        "v.csv",
        "clip,who_a,who_b,n\na,1,2,3\nb,5,3,9\n",
        {"format": "wide", "rater": ["who_*"]},
        4,
        {"columns that are not read": (1, 0)},
    ),
    "names in camel case with words for answers": (
        "v.csv",
        "clipName,raterId,audioQuality,emotionSeen\na,ann,good,joy\na,ben,bad,sad\n",
        {},
        4,
        {},
    ),
    "texts without names": ("v.csv", "text,rater,label\nhi,ann,joy\nhi,ben,sad\nho,ann,sad\n", {}, 3, {}),
    "a number for each vote": (
        "v.csv",
        "id,text,rater,label\n1,hi,ann,joy\n2,hi,ben,sad\n",
        {},
        2,
        {"columns that are not read": (1, 0)},
    ),
    "gzip": ("v.csv.gz", gzip.compress(TIDY.encode()), {}, 3, {}),
    "zip with a Mac's leftovers": (
        "v.zip",
        zipped(**{"v.csv": TIDY, "__MACOSX/._v.csv": "x", ".DS_Store": "x"}),
        {},
        3,
        {},
    ),
    "Excel with a second sheet": (
        "v.xlsx",
        excel([["item", "rater", "label"], ["a", "ann", 1], ["a", "ben", 2.0]], [["x"], ["y"]]),
        {},
        2,
        {"rows of further sheets, which are not read": (1, 0)},
    ),
    "JSON Lines with fields that come late": (
        "v.jsonl",
        lines({"item": "a", "label": "joy"}, {"item": "b", "label": "sad", "rater": "ann"}),
        {},
        2,
        {"votes without a rater, which count as anonymous": (1, 0)},
    ),
    "JSON of one line in .json": (
        "v.json",
        json.dumps([{"item": "a", "rater": "ann", "label": one} for one in ("joy", "sad")]),
        {},
        2,
        {},
    ),
    "deleted user": (
        "p.json",
        json.dumps([studio(said("joy", by=None), said("sad"))]),
        {},
        2,
        {"annotations without a rater's name, such as of deleted users, which count as anonymous": (1, 0)},
    ),
    "regions without labels": (
        "p.json",
        json.dumps(
            [
                studio(
                    said("joy", kind="labels"),
                    said("sad", by=2, kind="labels"),
                    {
                        "completed_by": 3,
                        "result": [{"type": "labels", "from_name": "emotion", "value": {"start": 0, "end": 1}}],
                    },
                )
            ]
        ),
        {},
        2,
        {"regions without a label": (1, 0), "annotations without an answer": (1, 0)},
    ),
    "regions with one label twice": (
        "p.json",
        json.dumps(
            [
                studio(
                    {"completed_by": 1, "result": said("joy", kind="labels")["result"] * 2},
                    said("sad", by=2, kind="labels"),
                )
            ]
        ),
        {},
        2,
        {"labels that a rater repeats on an item, such as of several regions": (1, 1)},
    ),
    "skipped annotation": (
        "p.json",
        json.dumps([studio(said("joy"), said("sad", by=2), said(["joy", "sad"], by=3, was_cancelled=True))]),
        {},
        2,
        {"annotations that the rater skipped or cancelled": (1, 2)},
    ),
    "duplicated task id": ("p.json", json.dumps([studio(said("joy")), studio(said("sad", by=2))]), {}, 2, {}),
    "predictions, drafts, empty annotations": (
        "p.json",
        json.dumps(
            [
                studio(
                    said("joy"),
                    said("sad", by=2),
                    {"completed_by": 3, "result": []},
                    predictions=[{"result": []}],
                    drafts=[{}],
                )
            ]
        ),
        {},
        2,
        {
            "predictions of Label Studio, which are no votes": (1, 0),
            "drafts of Label Studio, which are no votes": (1, 0),
            "annotations without an answer": (1, 0),
        },
    ),
    "a form whose name is a number": (
        "p.json",
        json.dumps(
            [studio(said("joy"), {"completed_by": 2, "result": [{"type": "textarea", "from_name": 3}]}, said("a"))]
        ),
        {},
        2,
        {"answers of Label Studio's type textarea, which is not read": (1, 1)},
    ),
    "types that are no labels": (
        "p.json",
        json.dumps([studio(said("joy"), said("sad", by=2), said(["a", "b"], by=2, kind="textarea"))]),
        {},
        2,
        {"answers of Label Studio's type textarea, which is not read": (1, 1)},
    ),
    "spans of text in Label Studio": (
        "p.json",
        json.dumps(
            [
                studio(
                    said("joy"),
                    said("sad", by=2),
                    {
                        "completed_by": 2,
                        "result": [
                            {
                                "type": "labels",
                                "from_name": "ner",
                                "value": {"start": 0, "end": 2, "text": "hi", "labels": ["X"]},
                            }
                        ],
                    },
                )
            ]
        ),
        {},
        2,
        {"spans of text, which are no labels of the item": (1, 1)},
    ),
    "tasks of one file one after the other": (
        "p.json",
        json.dumps(studio(said("joy")), indent=2) + "\n\n" + json.dumps(studio(said("sad", by=2))),
        {},
        2,
        {},
    ),
    "rejected and ignored tasks": (
        "p.jsonl",
        lines(
            *(prodigy(accept=[one], by=one) for one in ("joy", "sad")),
            prodigy("reject", accept=["joy"]),
            prodigy("ignore", accept=[]),
        ),
        {},
        2,
        {"tasks that a rater ignored": (1, 1), "tasks that a rater rejected as a whole": (1, 1)},
    ),
    "yes and no": (
        "p.jsonl",
        lines(prodigy(label="rude"), prodigy("reject", by="db-ben", label="rude"), prodigy("ignore", label="rude")),
        {},
        2,
        {"tasks that a rater ignored": (1, 1)},
    ),
    "audio in base64": (
        "p.jsonl",
        lines(
            *(prodigy(accept=[one], by=one, audio="data:audio/wav;base64,AAA", path="a.wav") for one in ("joy", "sad"))
        ),
        {},
        2,
        {},
    ),
    "free text and spans of potato": (
        "annotated_instances.jsonl",
        lines(
            {
                "id": 1,
                "displayed_text": "hi",
                "label_annotations": {"mood": {"joy": "1"}, "why": {"text_box": "so"}},
                "span_annotations": [{"start": 0}],
            },
            {
                "id": 2,
                "displayed_text": "ho",
                "label_annotations": {"mood": {"sad": True, "joy": False}},
                "span_annotations": [],
            },
        ),
        {},
        2,
        {"answers in free text": (1, 1), "spans of text, which are no labels of the item": (1, 1)},
    ),
    "spans of doccano": (
        "all.jsonl",
        lines(
            {"id": 1, "text": "hi", "label": ["joy", "sad"]},
            {"id": 2, "text": "ho", "label": [[0, 2, "X"]]},
            {"id": 3, "text": "he", "label": []},
        ),
        {},
        2,
        {"spans of text, which are no labels of the item": (1, 1), "examples that a user left without a label": (1, 0)},
    ),
    "drafts and rankings of Argilla": (
        "r.json",
        json.dumps(
            [
                {
                    "id": 1,
                    "fields": {"text": "hi"},
                    "responses": {
                        "mood": [{"value": one, "user_id": one} for one in ("joy", "sad")],
                        "order": [{"value": [{"value": "x", "rank": 1}], "user_id": "joy"}],
                    },
                },
                {
                    "id": 2,
                    "fields": {"text": "ho"},
                    "responses": {"mood": [{"value": "joy", "user_id": "ann", "status": "draft"}]},
                },
            ]
        ),
        {},
        2,
        {"responses of status draft": (1, 1), "spans of text and rankings, which are no labels of the item": (1, 1)},
    ),
    "one number in several spellings": (
        "v.csv",
        "item,rater,label\na,ann,1\na,ben,1.0\nb,ann,01\nb,ben,0\n",
        {},
        4,
        {},
    ),
    "words among numbers": (
        "v.csv",
        "item,rater,rating\n" + "".join(f"i{n},ann,{n % 5}\n" for n in range(9)) + "x,ann,unsure\nx,ben,inf\n",
        {},
        11,
        {"answers in words among numbers, which are all read as labels": (2, 0)},
    ),
    "no value in other letter cases": (
        "v.csv",
        TIDY + "c,ann,Na\nc,ben, nAn \nc,eve,<NA>\nc,dan,None\n",
        {},
        4,
        {"answers that say that there is none": (3, 3)},
    ),
    "lists of answers in a table": (
        "v.jsonl",
        lines(
            *({"item": "a", "rater": n, "label": one} for n, one in enumerate((["joy"], ["joy", "sad"], [], "[so]")))
        ),
        {},
        5,
        {},
    ),
    "counts with their sum": (
        "v.csv",
        "clip,joy,sad,total\na,3,2,5\nb,0,5,5\n",
        {"format": "counts"},
        10,
        {"columns that are not read": (1, 0)},
    ),
    "counts of which one is always zero": (
        "v.csv",
        "clip,joy,sad,calm\na,3,2,0\nb,0,5,0\n",
        {},
        10,
        {"labels without a vote, which are not read": (1, 0)},
    ),
    "counts that share no number": ("v.csv", "clip,joy,sad\na,30,2\nb,29,1\n", {"format": "counts"}, 62, {}),
    "a column that sums up the raters": (
        "v.csv",
        "clip,ann,ben,Gold\na,joy,sad,joy\nb,sad,joy,sad\n",
        {},
        4,
        {"columns that are not read": (1, 0)},
    ),
    "audio as datasets stores it": (
        "v.jsonl",
        lines(*({"audio": {"bytes": None, "path": "a.wav"}, "rater": one, "label": one} for one in ("joy", "sad"))),
        {},
        2,
        {},
    ),
    "potato: zeros that are answers and zeros that are none": (
        "annotated_instances.jsonl",
        lines(
            {
                "id": 1,
                "label_annotations": {"scale": {"0": "0"}, "level": {"slider": 0}, "mood": {"joy": "0", "sad": 1}},
            },
            {"id": 2, "label_annotations": {"scale": {"2": "2"}, "level": {"slider": 5}, "mood": {"joy": 1, "sad": 0}}},
        ),
        {},
        6,
        {},
    ),
    "potato: a table of ratings": (
        "annotated_instances.jsonl",
        lines(
            *(
                {"id": n, "label_annotations": {"how": {"clear": one, "loud": two}}}
                for n, (one, two) in enumerate((("4", "1"), ("2", "3"), ("5", "2")))
            )
        ),
        {},
        6,
        {},
    ),
    "potato: free text beside choices": (
        "annotated_instances.jsonl",
        lines(
            *({"id": n, "label_annotations": {"mood": {one: "1", "free_response": "so"}}} for n, one in enumerate("xy"))
        ),
        {},
        2,
        {"answers in free text": (2, 2)},
    ),
    "potato: its export in JSON Lines": (
        "annotations.jsonl",
        lines(
            *(
                {"instance_id": "a", "user_id": one, "labels": {"mood": {one: "true"}}, "spans": {"w": [{"start": 0}]}}
                for one in "xy"
            )
        ),
        {},
        2,
        {"spans of text, which are no labels of the item": (2, 2)},
    ),
    "potato: its export in CSV": (
        "annotations.csv",
        'instance_id,user_id,mood.joy,mood.sad,w._spans\na,u,true,,[]\na,v,,true,"[{""start"": 0}]"\n',
        {},
        2,
        {"spans of text, which are no labels of the item": (1, 1)},
    ),
    "choices that are numbers in Prodigy": (
        "p.jsonl",
        lines(*(prodigy(accept=[n], options=[{"id": 0, "text": "joy"}, {"id": 1, "text": "sad"}]) for n in (0, 1, 1))),
        {},
        3,
        {},
    ),
    "parts of texts and pictures in Label Studio": (
        "p.json",
        json.dumps(
            [
                studio(
                    said("joy"),
                    said("sad", by=2),
                    {
                        "completed_by": 3,
                        "result": [
                            {"type": "choices", "from_name": "mood", "value": {"choices": ["a", "b"], **part}}
                            for part in ({"start": 0, "end": 2, "text": "hi"}, {"x": 1, "y": 2}, {"startOffset": 1})
                        ],
                    },
                )
            ]
        ),
        {},
        2,
        {
            "spans of text, which are no labels of the item": (4, 4),
            "answers about parts of pictures or videos, which are not read": (2, 2),
        },
    ),
}

# Name, content, what the user says, and the sentence.
REFUSED = {
    "nothing there": (None, None, {}, r"There is no file or folder .*v\.csv; name the table or export"),
    "unknown suffix": ("v.xls", "x", {}, r"v\.xls ends in \.xls; give a file that ends in \.csv, .*"),
    "empty file": ("v.csv", "", {}, r"v\.csv is empty; export it again\."),
    "blank file": ("v.csv", "\n\n \n", {}, r"v\.csv is empty"),
    "empty JSON": ("v.json", " ", {}, r"v\.json"),
    "empty list": ("v.json", "[]", {}, r"v\.json has a header and no rows|v\.json holds no"),
    "only a header": ("v.csv", "item,rater,label\n", {}, r"v\.csv has a header and no rows"),
    "one column": (
        "v.csv",
        "label\njoy\n",
        {},
        r"v\.csv: the first row has one column, 'label'; it must name the columns",
    ),
    "no header": ("v.csv", "a.wav,ann,joy\nb.wav,ann,sad\n", {}, r"no column is known as the item; name it as --item"),
    "two columns of one name": (
        "v.csv",
        "item,label,label\na,joy,sad\n",
        {},
        r"two columns are called 'label'; give each",
    ),
    "long row": ("v.csv", TIDY + "c,ann,joy,really\n", {}, r"line 5 has 4 cells and the header 3; quote cells"),
    "open quote": (
        "v.csv",
        TIDY + 'c,"ann,joy\n',
        {},
        r"the row from line 5 is not readable \(a quotation mark is not closed\)",
    ),
    "quote within": ("v.csv", TIDY + 'c,"an"n,joy\n', {}, r"the row from line 5 is not readable"),
    "zero bytes": ("v.csv", TIDY.encode() + b"c,\0,joy\n", {}, r"line 5 has a zero byte; save the file as UTF-8"),
    "no encoding": ("v.csv", TIDY.encode() + b"c,\x81\xff,joy\n", {}, r"line 5 is not UTF-8 or Windows-1252; save"),
    "another encoding than its mark says": (
        "v.csv",
        b"\xef\xbb\xbf" + TIDY.encode() + b"c,\xfcnl,joy\n",
        {},
        r"line 5 is not UTF-8, as its mark says; save the file as UTF-8",
    ),
    "half a character": ("v.csv", TIDY.encode("utf-16")[:-1], {}, r"line \d is not UTF-16, as its mark says"),
    "no answers": (
        "v.csv",
        "item,rater,when\na,ann,1\nb,ann,2\n",
        {"value": ["mood"]},
        r"there is no column 'mood'; the columns",
    ),
    "unknown answers": (
        "v.csv",
        "item,rater,x,y\na,ann,1,2\n",
        {},
        r"no column is known as the answer; name it as --value",
    ),
    "unknown column": (
        "v.csv",
        TIDY,
        {"item": "clip"},
        r"there is no column 'clip'; the columns are item, rater, label",
    ),
    "unknown question": (
        "v.csv",
        TIDY.replace("label", "valence") + "b,ben,2\n",
        {"question": ["a", "b"]},
        r"there is no question 'a'",
    ),
    "scale upside down": (
        "v.csv",
        TIDY,
        {"question": ["x=5..1"]},
        r"--question x=5\.\.1: .*low must be finite and below",
    ),
    "counts or ratings": (
        "v.csv",
        "clip,ann,ben\na,3,0\nb,1,4\n",
        {},
        r"may be counts of votes for labels, or ratings; say which by --format counts or wide",
    ),
    "measurements": (
        "v.csv",
        "clip,n_seen,n_heard,pct\na,3,0,4.5\nb,1,4,99\n",
        {},
        r"say which by --format counts or wide",
    ),
    "a pattern of no column": ("v.csv", TIDY, {"rater": ["r_*"]}, r"no column is called r_\*; the columns are"),
    "broken counts": (
        "v.csv",
        "clip,joy,sad\na,3,0\nb,1.5,4\n",
        {"format": "counts"},
        r"row 3 has '1\.5' in column 'joy'; a count is",
    ),
    "huge counts": (
        "v.csv",
        "clip,joy,sad\na,3,0\nb,1,99999999999\n",
        {"format": "counts"},
        r"a count is a whole number from 0 to",
    ),
    "one answer": (
        "v.csv",
        TIDY.replace("sad", "joy"),
        {},
        r"no votes are left \(votes on a question that has only one answer: 3\)",
    ),
    "free text": (
        "v.csv",
        "item,rater,label\n" + "".join(f"i{n},ann,I think {n}\n" for n in range(80)),
        {},
        r"no votes are left \(answers in free text: 80\)",
    ),
    "one name for two texts": (
        "v.csv",
        "item,text,rater,label\na,hi,ann,joy\na,ho,ben,sad\n",
        {},
        r"row 3: item 'a' has text 'ho', and 'hi' before",
    ),
    "one task id for two texts": (
        "p.json",
        json.dumps([studio(said("joy"), data={"text": one}) for one in ("hi", "ho")]),
        {},
        r"line 1: item '7' has text 'ho', and 'hi' before; give each item one",
    ),
    "broken JSON": (
        "p.jsonl",
        '{"item": "a", "label": "joy"}\n{"item": "a" "label": "sad"}\n',
        {},
        r"line 2 is not JSON \(Expecting ',' delim",
    ),
    "cut off": ("p.json", json.dumps([studio(said("joy"))] * 3, indent=1)[:-40], {}, r"p\.json: line \d+ is not JSON"),
    "a name twice in an object": (
        "p.json",
        '[{"item": "a", "label": "joy", "about": {"x": 1}},\n {"item": "b", "label": "sad", "label": "joy"}]',
        {},
        r"line 2 is not JSON \('label' stands twice in one object\)",
    ),
    "a name twice in a cell of Label Studio": (
        "p.json",
        json.dumps(
            [{"id": 1, "annotator": 1, "annotation_id": 1, "r": '{"choices": "a", "choices": ["b"]}', "lead_time": 1}]
        ),
        {},
        r"'choices' stands twice in one object",
    ),
    "numbers in JSON": ("p.json", "[1, 2]", {}, r"line 1 holds 1, which is no record"),
    "two lists": ("p.json", '[{"item": "a", "label": "joy"}] [{}]', {}, r"there is more after the list, '\[\{\}\]'"),
    "nested too deeply": ("p.json", '[{"item": ' + "[" * 100_000, {}, r"nested too deeply|is not JSON"),
    "half a surrogate": (
        "p.jsonl",
        r'{"item": "a", "rater": "\ud800", "label": "x"}' + "\n" + r'{"item": "b", "rater": "b", "label": "y"}',
        {},
        r"is not valid Unicode \(surrogates not allowed\)",
    ),
    "no zip": ("v.zip", "x", {}, r"v\.zip is not a zip file"),
    "no Excel": ("v.xlsx", "x", {}, r"v\.xlsx is not a readable Excel file"),
    "no parquet": ("v.parquet", "x", {}, r"v\.parquet is not a readable parquet file"),
    "no gzip": ("v.csv.gz", "x", {}, r"v\.csv\.gz cannot be read"),
    "half a gzip": ("v.csv.gz", gzip.compress(TIDY.encode() * 50)[:-20], {}, r"v\.csv\.gz"),
    "damaged gzip": (
        "v.csv.gz",
        damaged(gzip.compress(lines(*range(5000)).encode())),
        {},
        r"v\.csv\.gz cannot be read",
    ),
    "damaged zip": (
        "v.zip",
        damaged(zipped(**{"v.csv": TIDY + lines(*range(5000))})),
        {},
        r"v\.zip/v\.csv cannot be read",
    ),
    "Excel that is another zip": ("v.xlsx", zipped(readme="hi"), {}, r"v\.xlsx is not a readable Excel file"),
    "zip without votes": ("v.zip", zipped(readme="hi"), {}, r"v\.zip holds no file that ends in"),
    "two tools": (
        "v.zip",
        zipped(**{"a.jsonl": lines(prodigy(accept=["joy"])), "b.json": json.dumps([studio(said("sad"))])}),
        {},
        r"mixes exports of prodigy and label-studio",
    ),
    "two tables": (
        "v.zip",
        zipped(**{"a.csv": TIDY, "b.csv": TIDY}),
        {},
        r"holds 2 tables that are no export of a known tool",
    ),
    "yes and no of two raters, or one vote of two labels": (
        "v.csv",
        "clip,ann,ben\na,0,1\nb,1,0\n",
        {},
        r"columns ann, ben hold numbers, which may be counts",
    ),
    "numbers without a scale": (
        "v.csv",
        "item,rater,label\na,ann,1e308\na,ben,-1e308\nb,ann,5\n",
        {},
        r"v\.csv: Question 'label' has scale .*; low must be finite .* Name its scale or labels as --question\.",
    ),
    "a region that ends before it begins": (
        "p.json",
        json.dumps(
            [
                studio(
                    {
                        "completed_by": 1,
                        "result": [
                            {"type": "labels", "from_name": "x", "value": {"labels": ["a"], "start": 2, "end": 1}}
                        ],
                    }
                )
            ]
        ),
        {},
        r"line 1 is not a record of Label Studio \(JSON\) \(a region of 'a\.wav' goes from 2 to 1 s; correct its times\)",
    ),
    "annotations as numbers": (
        "p.json",
        json.dumps([studio(1, 2)]),
        {},
        r"line 1 is not a record of Label Studio \(JSON\)",
    ),
    "an answer of Prodigy that there is not": (
        "p.jsonl",
        lines(prodigy("maybe", accept=["joy"])),
        {},
        r"line 1: the answer is 'maybe'; Prodigy knows",
    ),
    "votes without a label": (
        "p.json",
        json.dumps([studio({"completed_by": 1, "result": []})]),
        {},
        r"p\.json holds no votes \(annotations without an answer: 1\)",
    ),
}


def write(home, name, content):
    path = home / (name or "v.csv")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("case", READ)
def test_it_is_read_and_everything_is_counted(case, tmp_path):
    name, content, options, votes, left_out = READ[case]
    found = read_own_votes(write(tmp_path, name, content), Reading(**options))
    assert len(found.frame) == votes
    counted = {reason: (one.count, one.votes) for reason, one in found.left_out.items()}
    assert counted == left_out
    assert found.votes_read == votes + sum(lost for _, lost in left_out.values())


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_sentence(case, tmp_path):
    name, content, options, message = REFUSED[case]
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_own_votes(path, Reading(**options))
    said = str(refusal.value)
    assert (str(path) in said or "--question" in said) and "; " in said and said.endswith(".") and "\n" not in said


BLANKS = b"item,rater,label\n" + b" " * (8 << 20)


def deflated(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.zip", deflated("v.csv", BLANKS)),
        ("v.csv.gz", gzip.compress(BLANKS)),
        ("v.json.gz", gzip.compress(b"[" + BLANKS)),
        ("v.zip", deflated("v.csv.gz", gzip.compress(BLANKS))),
        ("v.xlsx", deflated("xl/sharedStrings.xml", BLANKS)),
    ],
)
def test_what_unpacks_without_end_is_refused(name, content, tmp_path, monkeypatch):
    # As little as makes the point; in earnest the bound is 256 MB.
    monkeypatch.setattr(encoding, "UNPACKED", 1 << 20)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.\S+ unpacks to more than 100 times its size, as no table does; download"):
        read_own_votes(tmp_path / name)


def test_there_are_many():
    assert len(READ) + len(REFUSED) >= 90


def test_a_million_rows_are_read(tmp_path):
    path = tmp_path / "votes.csv"
    rows = "".join(f"clip{n % 1000},r{n // 1000},{'joy' if n % 3 else 'sad'}\n" for n in range(10_000))
    path.write_text("item,rater,label\n" + rows * 100)
    found = read_own_votes(path)
    assert len(found.frame) == found.votes_read == 1_000_000


def test_a_long_json_list_is_never_in_memory_as_a_whole(tmp_path):
    """Each task is large, and little of it is a vote."""
    path = tmp_path / "project.json"
    with open(path, "w") as file:
        task = json.dumps(studio(said("joy"), said("sad", by=2), meta={"waste": "é" * 200_000}), ensure_ascii=False)
        file.write("[" + ",".join([task] * 100) + "]")
    assert path.stat().st_size > 40e6
    tracemalloc.start()
    found = read_own_votes(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.votes_read == 200 and most < 20e6
