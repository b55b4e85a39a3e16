"""The exports of annotation tools, one function a tool, which turns one of its records into votes."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from annot_hf.data.ballots import Ballots, pick_column
from annot_hf.data.encoding import unrepeated
from annot_hf.data.records import RecordFile, cell_text

Record = Mapping[str, Any]
# Label Studio: where a result of this type has its answers.
ANSWER_KEYS = {"choices": "choices", "rating": "rating", "number": "number", "labels": "labels", "datetime": "datetime"}
TEXT_SPANS = "spans of text, which are no labels of the item"
OTHER_ANSWERS = "answers of Label Studio without a label, which are not read"
PICTURES = "answers about parts of pictures or videos, which are not read"
STUDIO_COLUMNS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
# potato: the key of an answer that is not itself the label, by the kind of form.
POTATO_VALUES = ("slider", "select-one", "number")
POTATO_WORDS = ("text_box", "free_response")
# potato: the key of an answer that is a drawing, such as segments of a clip.
POTATO_DRAWN = "_data"
WITHOUT_NAME = "annotations without a rater's name, such as of deleted users, which count as anonymous"


def _nothing(ballots: Ballots) -> None:
    """What most tools need when all is read."""


@dataclass(frozen=True)
class ToolFormat:
    """One tool: its name for `--format`, its title, whether a first record is its own, what reads a record, and the rest."""

    name: str
    title: str
    fits: Callable[[Record], bool]
    read: Callable[[Ballots, RecordFile, str, Record], None]
    finish: Callable[[Ballots], None] = _nothing


def _strings(value: Any) -> list[str]:
    """Answers as a flat list of text; a nested choice is the path to it."""
    entries = value if isinstance(value, list) else [value]
    return ["/".join(map(cell_text, one)) if isinstance(one, list) else cell_text(one) for one in entries]


def _name(value: Any) -> str | None:
    """The name of a rater, or None if it is not known."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    said = cell_text(value)
    return said if said.strip() else None


def _is_span(value: Any) -> bool:
    """Whether an answer is a piece of the text, or a ranking, which are no labels of the item."""
    return isinstance(value, dict) or (isinstance(value, list) and len(value) == 3 and not isinstance(value[0], str))


def read_label_studio(ballots: Ballots, file: RecordFile, where: str, task: Record) -> None:
    """A task of Label Studio's JSON, with the annotations of all raters."""
    data, given = task["data"], task.get("annotations", task.get("completions"))
    item = ballots.place(where, task.get("id"), data, task.get("meta") or {})
    for made in ("predictions", "drafts"):
        if task.get(made):
            listed = sum(isinstance(one, dict) for one in task[made])
            ballots.leave(f"{made} of Label Studio, which are no votes", item, votes=0, count=listed)
    for annotation in given or ():
        if not isinstance(annotation, dict):
            raise TypeError("its annotations are only numbers; export JSON, not a snapshot without annotations")
        rater = _name(annotation.get("completed_by"))
        answers: dict[tuple[str, tuple[Any, Any] | None], list[str]] = defaultdict(list)
        unread: Counter[tuple[str, str]] = Counter()
        for result in annotation.get("result") or ():
            kind, value = result.get("type", ""), result.get("value") or {}
            key = next((key for key in (ANSWER_KEYS.get(kind), kind, "labels") if key and key in value), None)
            # A transcript has a text too.
            times = None if kind == "textarea" else _studio_times(value)
            if kind in ANSWER_KEYS and not key:
                ballots.leave("regions without a label", item, votes=0)
            elif isinstance(times, str):
                unread[times, item] += len(_strings(value[key])) if key else 1
            elif kind not in (*ANSWER_KEYS, "audio", "relation"):
                unread[
                    f"answers of Label Studio's type {kind}, which is not read", cell_text(result.get("from_name"))
                ] += 1
            elif key:
                answers[cell_text(result["from_name"]), times] += _strings(value[key])
        if annotation.get("was_cancelled"):
            said = sum(map(len, answers.values())) + unread.total()
            ballots.leave("annotations that the rater skipped or cancelled", item, votes=said)
            continue
        for (reason, example), count in unread.items():
            ballots.leave(reason, example, count, count)
        if not answers and not unread:
            ballots.leave("annotations without an answer", item, votes=0)
        elif rater is None:
            ballots.leave(WITHOUT_NAME, item, votes=0)
        for (question, times), values in answers.items():
            ballots.answer(item if times is None else ballots.segment(item, *times), rater, question, values)


def _studio_times(value: Record) -> tuple[Any, Any] | str | None:
    """Start and end of the part of a clip that an answer is about, None if it is about all, or why it is not read."""
    if {"startOffset", "text"} & value.keys():
        return TEXT_SPANS
    if {"x", "points", "ranges", "sequence"} & value.keys():
        return PICTURES
    return (value["start"], value["end"]) if {"start", "end"} <= value.keys() else None


def _studio_answers(cell: Any) -> Iterator[tuple[list[str], tuple[Any, Any] | str | None]]:
    """The answers in a cell of Label Studio's JSON-MIN or CSV, each with what `_studio_times` says of it."""
    if isinstance(cell, str) and cell[:1] in ("[", "{"):
        try:
            cell = json.loads(cell, object_pairs_hook=unrepeated)
        except json.JSONDecodeError:
            yield [cell], None
            return
    for one in cell if isinstance(cell, list) else [cell]:
        if isinstance(one, dict):
            key = next((key for key in ANSWER_KEYS.values() if key in one), None)
            yield (_strings(one[key]), _studio_times(one)) if key else ([""], OTHER_ANSWERS)
        elif cell_text(one):
            yield [cell_text(one)], None


def read_label_studio_min(ballots: Ballots, file: RecordFile, where: str, record: Record) -> None:
    """A row of Label Studio's JSON-MIN or CSV: the task's data, `id`, the answers by name, and the annotator."""
    names = file.header or list(record)
    # The data stand before `id`, and the answers behind it.
    behind = names[names.index("id") + 1 :] if "id" in names else names
    asked = ballots.wanted.get("value")
    questions = [pick_column(one, names, where) for one in asked] if asked else behind
    questions = [name for name in questions if name not in STUDIO_COLUMNS]
    shown = {name: value for name, value in record.items() if name not in (*questions, *STUDIO_COLUMNS, "id")}
    item, rater = ballots.place(where, record.get("id"), shown), _name(record.get("annotator"))
    for question in questions:
        answers: dict[Any, list[str]] = defaultdict(list)
        for values, times in _studio_answers(record.get(question)):
            answers[times] += values
        for times, values in answers.items():
            if isinstance(times, str):
                ballots.leave(times, question, len(values), len(values))
            else:
                ballots.answer(item if times is None else ballots.segment(item, *times), rater, question, values)
    if rater is None:
        ballots.leave(WITHOUT_NAME, item, votes=0)


def read_potato(ballots: Ballots, file: RecordFile, where: str, record: Record) -> None:
    """A line of potato's annotated_instances or annotations, a row of their CSV or TSV, or the state of one user."""
    states = record.get("instance_id_to_label_to_value")
    if states is not None:
        for own, given in states.items():
            labels: dict[str, dict[str, Any]] = defaultdict(dict)
            for label, value in [] if isinstance(given, dict) else given:
                labels[cell_text(label["schema"])][cell_text(label["name"])] = value
            if isinstance(given, dict):
                labels = {schema: said.get("labels", said) for schema, said in given.items()}
            item = ballots.place(f"{where}, item {own}", own, {})
            _potato_answers(ballots, item, _name(record.get("user_id")) or file.owner, labels)
        for own, spans in (record.get("instance_id_to_span_to_value") or {}).items():
            count = sum(map(len, spans.values())) if isinstance(spans, dict) else len(spans)
            ballots.leave(TEXT_SPANS, own, count, count)
        return
    if "label_annotations" in record:
        labels, rater = record["label_annotations"], _name(record.get("user")) or (file.owner if file.nested else None)
        spans = len(record.get("span_annotations") or ())
        item = ballots.place(where, record["id"], {"text": record.get("displayed_text")})
    elif "labels" in record:
        labels, rater = record["labels"], _name(record["user_id"])
        spans = sum(map(len, (record.get("spans") or {}).values()))
        item = ballots.place(where, record["instance_id"], {})
    else:
        labels, spans, rater = defaultdict(dict), 0, _name(record.get("user") or record.get("user_id"))
        for name, value in record.items():
            schema, mark, label = name.partition(":::" if "user" in record else ".")
            if mark and (schema == "span_annotation" or label == "_spans"):
                spans += len(json.loads(value.replace("'", '"') if mark == ":::" else value)) if value else 0
            elif mark and cell_text(value):
                labels[schema][label] = value
        item = ballots.place(where, record["instance_id"], {"text": record.get("displayed_text")})
    _potato_answers(ballots, item, rater, labels)
    ballots.leave(TEXT_SPANS, item, spans, spans)


def _potato_answers(ballots: Ballots, item: str, rater: str | None, labels: Mapping[str, Mapping[str, Any]]) -> None:
    """What was filled in in each of potato's forms, to be read when all forms are known."""
    for schema, said in labels.items():
        filled = {}
        for label, value in said.items():
            text = cell_text(value)
            if label == POTATO_DRAWN:
                _potato_segments(ballots, item, rater, schema, json.loads(text or "{}", object_pairs_hook=unrepeated))
            elif text.lower() in ("", "false") or (text == "0" and label != "0" and not _is_number_form(label)):
                continue
            elif label in POTATO_WORDS:
                ballots.leave("answers in free text", schema)
            else:
                filled[label] = text
        ballots.forms.append((item, rater, schema, filled))


def _potato_segments(ballots: Ballots, clip: str, rater: str | None, schema: str, drawn: Any) -> None:
    """The segments of a clip with their labels and their own forms."""
    if not isinstance(drawn, dict) or not isinstance(drawn.get("segments"), list):
        ballots.leave("drawings, such as of boxes, which are not read", schema, len(drawn), len(drawn))
        return
    for one in drawn["segments"]:
        item = ballots.segment(clip, one["start_time"], one["end_time"])
        forms = {schema: one.get("label"), **(one.get("annotations") or {})}
        if not any(forms.values()):
            ballots.leave("regions without a label", clip, votes=0)
        for name, value in forms.items():
            if isinstance(value, dict):
                _potato_answers(ballots, item, rater, {name: value})
            elif value:
                ballots.answer(item, rater, name, _strings(value))


def _is_number_form(label: str) -> bool:
    """Whether the answer of a form of potato is not its label, but what stands beside it."""
    return label in POTATO_VALUES or label.startswith("scale_")


def finish_potato(ballots: Ballots) -> None:
    """Read the forms: what was chosen, the number that was set, or, where one label has several values, how it was rated."""
    beside: dict[tuple[str, str], set[str]] = defaultdict(set)
    for _, _, schema, filled in ballots.forms:
        for label, text in filled.items():
            beside[schema, label] |= {text} - {"true", label}
    rated = {schema for (schema, label), texts in beside.items() if len(texts) > 1 and not _is_number_form(label)}
    for item, rater, schema, filled in ballots.forms:
        if schema in rated:
            for label, text in filled.items():
                ballots.answer(item, rater, f"{schema}/{label}", [text])
        else:
            chosen = [text if _is_number_form(label) else label for label, text in filled.items()]
            ballots.answer(item, rater, schema, chosen)
    ballots.forms.clear()


def read_doccano(ballots: Ballots, file: RecordFile, where: str, record: Record) -> None:
    """A line of doccano: a list of labels of one user, whose name is that of the file, or annotations with their users."""
    owner = None if file.owner in ("", "all") else file.owner
    columns = ("label", "labels", "cats", "categories", "entities", "relations", "Comments", "comments", "annotations")
    shown = {name: value for name, value in record.items() if name not in (*columns, "id", "data")}
    shown |= {"text": record["data"]} if "data" in record else {}
    item = ballots.place(where, record.get("id"), shown)
    for annotation in record.get("annotations") or ():
        if "start_offset" in annotation or "label" not in annotation:
            ballots.leave(TEXT_SPANS, item)
        else:
            ballots.vote(item, _name(annotation.get("user")) or owner, "label", cell_text(annotation["label"]))
    for name in ("entities", "relations"):
        count = len(record.get(name) or ())
        ballots.leave(TEXT_SPANS, item, count, count)
    for name in ("label", "labels", "cats", "categories"):
        given = record.get(name)
        if given in (None, "", []):
            continue
        # The CSV of doccano joins labels so.
        values = given.split("#") if isinstance(given, str) else given
        spans = sum(map(_is_span, values))
        ballots.leave(TEXT_SPANS, item, spans, spans)
        ballots.answer(item, owner, "label", [cell_text(one) for one in values if not _is_span(one)])
    if not any(record.get(name) for name in columns if name not in ("Comments", "comments")):
        ballots.leave("examples that a user left without a label", item, votes=0)


def read_prodigy(ballots: Ballots, file: RecordFile, where: str, record: Record) -> None:
    """A line of Prodigy: one task of one session, with its answer accept, reject or ignore."""
    rater = _name(record.get("_annotator_id") or record.get("_session_id"))
    meta = record.get("meta") if isinstance(record.get("meta"), dict) else {}
    own = record.get("id") or meta.get("id") or record.get("_input_hash")
    shown = {name: record[name] for name in ("text", "audio", "path", "speaker", "split") if name in record}
    if not is_reference(shown.get("audio")):
        shown.pop("audio", None)
    item = ballots.place(where, own, shown, meta)
    answer, accepted = record["answer"], record.get("accept")
    regions = [*(record.get("audio_spans") or ()), *(record.get("video_spans") or ())]
    binary = accepted is None and "label" in record
    said = len(accepted or ()) + len(regions) + binary
    if answer not in ("accept", "reject", "ignore"):
        raise ValueError(
            f"{where}: the answer is {answer!r}; Prodigy knows accept, reject and ignore, so restore the export."
        )
    if answer == "ignore" or (answer == "reject" and not binary):
        what = "ignored" if answer == "ignore" else "rejected as a whole"
        ballots.leave(f"tasks that a rater {what}", item, votes=max(said, 1))
        return
    if rater is None:
        ballots.leave(WITHOUT_NAME, item, votes=0)
    if binary:
        ballots.vote(item, rater, cell_text(record["label"]), answer)
    if accepted is not None:
        # An option of a number is known by its text.
        texts = {option.get("id"): option.get("text") for option in record.get("options") or ()}
        values = [cell_text((isinstance(one, int) and texts.get(one)) or one) for one in accepted]
        if (record.get("config") or {}).get("choice_style") == "multiple":
            ballots.multiple.add("label")
        ballots.answer(item, rater, "label", values)
        if not values and "label" in ballots.multiple:
            ballots.vote(item, rater, "label", None)
        elif not values:
            ballots.leave("tasks that a rater accepted without a choice", item)
    for region in regions:
        if label := cell_text(region.get("label")):
            ballots.answer(ballots.segment(item, region["start"], region["end"]), rater, "region", [label])
        else:
            ballots.leave("regions without a label", item, votes=0)
    spans = len(record.get("spans") or ())
    ballots.leave(TEXT_SPANS, item, spans, spans)


def is_reference(value: Any) -> bool:
    """Whether a value is a path or an address, and not the clip itself in base64."""
    return isinstance(value, str) and not value.startswith("data:")


def _argilla_responses(record: Record) -> list[tuple[str | None, str, str, Any]]:
    """The responses of a record as user, status, question and value, in any of Argilla's shapes."""
    given, found = record.get("responses"), []
    if isinstance(given, list):
        for response in given:
            values = response.get("values") or {}
            for question, value in values.items():
                value = value["value"] if isinstance(value, dict) and "value" in value else value
                found.append((_name(response.get("user_id")), response.get("status"), question, value))
            if not values:
                found.append((_name(response.get("user_id")), response.get("status"), "", None))
        return found
    lists = dict(given or {})
    # As columns: of Argilla 2 with dots, of Argilla 1 as lists of responses.
    for name, value in record.items():
        if name.endswith(".responses") and value is not None:
            users = record.get(f"{name}.users") or [None] * len(value)
            states = record.get(f"{name}.status") or [None] * len(value)
            rows = zip(value, users, states, strict=True)
            lists[name.removesuffix(".responses")] = [
                dict(zip(("value", "user_id", "status"), row, strict=True)) for row in rows
            ]
        elif isinstance(value, dict) and {"user_id", "value", "status"} <= value.keys():
            rows = zip(*(value[key] for key in ("value", "user_id", "status")), strict=True)
            lists[name] = [dict(zip(("value", "user_id", "status"), row, strict=True)) for row in rows]
        elif (
            isinstance(value, list) and value and isinstance(value[0], dict) and {"user_id", "value"} <= value[0].keys()
        ):
            lists[name] = value
    for question, responses in lists.items():
        for one in responses or ():
            found.append((_name(one.get("user_id")), one.get("status"), question, one.get("value")))
    return found


def read_argilla(ballots: Ballots, file: RecordFile, where: str, record: Record) -> None:
    """A record of Argilla with the responses of its users: nested, as the server gives it, or as columns."""
    own = record.get("id") or record.get("external_id") or record.get("_server_id") or where
    if "fields" in record:
        shown = record["fields"]
    else:
        shown = {name: value for name, value in record.items() if isinstance(value, str) and "." not in name}
    item = ballots.place(where, own, shown, record.get("metadata") if isinstance(record.get("metadata"), dict) else {})
    for rater, status, question, value in _argilla_responses(record):
        if status not in (None, "submitted"):
            ballots.leave(f"responses of status {status}", item, votes=len(value) if isinstance(value, list) else 1)
            continue
        if value is None:
            ballots.leave("responses without a value", item, votes=0)
            continue
        values = value if isinstance(value, list) else [value]
        others = sum(map(_is_span, values))
        ballots.leave("spans of text and rankings, which are no labels of the item", question, others, others)
        if rater is None:
            ballots.leave(WITHOUT_NAME, item, votes=0)
        labels = [one for one in values if not _is_span(one)]
        if labels or not others:
            ballots.answers(item, rater, question, labels)


def _columns(record: Record, *names: str) -> bool:
    return set(names) <= record.keys()


TOOLS = (
    ToolFormat(
        "label-studio",
        "Label Studio (JSON)",
        lambda record: "data" in record and bool({"annotations", "completions"} & record.keys()),
        read_label_studio,
    ),
    ToolFormat(
        "label-studio-min",
        "Label Studio (JSON-MIN or CSV)",
        lambda record: _columns(record, "annotation_id", "annotator", "lead_time"),
        read_label_studio_min,
    ),
    ToolFormat(
        "potato",
        "potato",
        lambda record: (
            bool({"label_annotations", "instance_id_to_label_to_value"} & record.keys())
            or (_columns(record, "user", "instance_id") and any(":::" in name for name in record))
            or (
                _columns(record, "user_id", "instance_id")
                and (isinstance(record.get("labels"), dict) or any("." in name for name in record))
            )
        ),
        read_potato,
        finish_potato,
    ),
    ToolFormat(
        "prodigy",
        "Prodigy",
        lambda record: "answer" in record and bool({"_task_hash", "_input_hash", "_session_id"} & record.keys()),
        read_prodigy,
    ),
    ToolFormat(
        "argilla",
        "Argilla",
        lambda record: (
            _columns(record, "responses", "fields")
            or any(name.endswith(".responses") for name in record)
            or any(
                isinstance(one, list) and one and isinstance(one[0], dict) and "user_id" in one[0]
                for one in record.values()
            )
            or any(isinstance(one, dict) and {"user_id", "value", "status"} <= one.keys() for one in record.values())
        ),
        read_argilla,
    ),
    ToolFormat(
        "doccano",
        "doccano",
        lambda record: (
            bool({"text", "data", "filename"} & record.keys())
            and (
                any(
                    isinstance(record.get(name), list)
                    for name in ("label", "labels", "cats", "categories", "annotations")
                )
                or (_columns(record, "id", "label") and bool({"Comments", "comments"} & record.keys()))
            )
        ),
        read_doccano,
    ),
)
