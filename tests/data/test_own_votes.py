"""Votes in = votes out + votes reported, for every format: exports are made of known votes and read back."""

import csv
import json
import zipfile
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from annot_hf.data.own_votes import Reading, read_own_votes

LABELS = ["anger", "calm", "joy & awe", 'so "so"', "wut;über"]


@st.composite
def truths(draw):
    """(item, rater) -> label, and the votes whose rater took them back (skipped, ignored, drafts)."""
    items = [f"clip {number}.wav" for number in range(draw(st.integers(2, 5)))]
    raters = ["ann", "ben@lab.org", "çelik"][: draw(st.integers(2, 3))]
    votes = {(item, rater): draw(st.sampled_from(LABELS)) for item in items for rater in raters}
    votes[items[0], raters[0]], votes[items[1], raters[0]] = LABELS[:2]
    absent = draw(st.sets(st.sampled_from(list(votes)[len(raters) + 1 :] or [None])))
    votes = {key: label for key, label in votes.items() if key not in absent}
    others = [key for key in votes if key[1] != raters[0]]
    taken_back = draw(st.sets(st.sampled_from(others))) if others else set()
    return votes, taken_back


def rows_of(votes):
    return [{"item": item, "annotator": rater, "emotion": label} for (item, rater), label in votes.items()]


def by_item(votes):
    found = {}
    for (item, rater), label in votes.items():
        found.setdefault(item, {})[rater] = label
    return found


def by_rater(votes):
    return by_item({(rater, item): label for (item, rater), label in votes.items()})


def dump(path, records, lines=True):
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in records) if lines else json.dumps(records, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def tidy_csv(home, votes, taken_back):
    pd.DataFrame(rows_of(votes)).to_csv(home / "votes.csv", index=False, sep=";", encoding="utf-8-sig")
    return home / "votes.csv"


def tidy_tsv(home, votes, taken_back):
    pd.DataFrame(rows_of(votes)).to_csv(home / "votes.tsv", index=False, sep="\t", encoding="utf-16")
    return home / "votes.tsv"


def tidy_jsonl(home, votes, taken_back):
    return dump(home / "votes.jsonl", rows_of(votes))


def tidy_parquet(home, votes, taken_back):
    pd.DataFrame(rows_of(votes)).to_parquet(home / "votes.parquet")
    return home / "votes.parquet"


def tidy_excel(home, votes, taken_back):
    pd.DataFrame(rows_of(votes)).to_excel(home / "votes.xlsx", index=False)
    return home / "votes.xlsx"


def wide(home, votes, taken_back):
    raters = sorted({rater for _, rater in votes})
    with open(home / "votes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Clip", *raters])
        writer.writerows([item, *(said.get(rater, "") for rater in raters)] for item, said in by_item(votes).items())
    return home / "votes.csv"


def counts(home, votes, taken_back):
    names = sorted(set(votes.values()))
    with open(home / "votes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Clip", *names])
        writer.writerows(
            [item, *map(Counter(said.values()).__getitem__, names)] for item, said in by_item(votes).items()
        )
    return home / "votes.csv"


def studio_tasks(votes, taken_back):
    tasks = []
    for number, (item, said) in enumerate(by_item(votes).items(), start=1):
        annotations = [
            {
                "id": 10 * number + place,
                "completed_by": {"id": place, "email": rater},
                "was_cancelled": (item, rater) in taken_back,
                "result": [
                    {
                        "id": "x",
                        "from_name": "emotion",
                        "to_name": "audio",
                        "type": "choices",
                        "value": {"choices": [label]},
                    }
                ],
            }
            for place, (rater, label) in enumerate(said.items())
        ]
        tasks.append(
            {"id": number, "data": {"audio": f"/data/upload/3/{item}"}, "annotations": annotations, "predictions": []}
        )
    return tasks


def label_studio(home, votes, taken_back):
    return dump(home / "project.json", studio_tasks(votes, taken_back), lines=False)


def studio_rows(votes):
    admin = {"annotation_id": 1, "created_at": "", "updated_at": "", "lead_time": 1.5}
    return [
        {"audio": f"/data/local-files/?d={item}", "id": number, "emotion": label, "annotator": rater, **admin}
        for number, ((item, rater), label) in enumerate(votes.items())
    ]


def label_studio_min(home, votes, taken_back):
    return dump(home / "project.json", studio_rows(votes), lines=False)


def label_studio_csv(home, votes, taken_back):
    pd.DataFrame(studio_rows(votes)).to_csv(home / "project.csv", index=False)
    return home / "project.csv"


def potato_folders(home, votes, taken_back):
    for rater, said in by_rater(votes).items():
        lines = [
            {"id": item, "displayed_text": item, "label_annotations": {"emotion": {label: "1"}}, "span_annotations": []}
            for item, label in said.items()
        ]
        dump(home / "out" / rater / "annotated_instances.jsonl", lines)
        (home / "out" / rater / "annotation_order.txt").write_text("\n".join(said))
    everybody = [
        {"id": item, "displayed_text": item, "label_annotations": {"emotion": {label: "1"}}}
        for (item, _), label in votes.items()
    ]
    dump(home / "out" / "annotated_instances.jsonl", everybody)
    return home / "out"


def potato_csv(home, votes, taken_back):
    rows = [
        {"user": rater, "instance_id": item, "displayed_text": item}
        | {f"emotion:::{one}": 1 if one == label else None for one in sorted(set(votes.values()))}
        for (item, rater), label in votes.items()
    ]
    pd.DataFrame(rows).to_csv(home / "annotated_instances.tsv", index=False, sep="\t")
    return home / "annotated_instances.tsv"


def potato_states(home, votes, taken_back):
    for rater, said in by_rater(votes).items():
        given = {item: [[{"schema": "emotion", "name": label}, "true"]] for item, label in said.items()}
        state = {"user_id": rater, "instance_id_to_label_to_value": given, "instance_id_to_span_to_value": {}}
        dump(home / "out" / rater / "user_state.json", state, lines=False)
    return home / "out"


def doccano_folder(home, votes, taken_back):
    for rater, said in by_rater(votes).items():
        lines = [
            {"id": number, "filename": item, "label": [label], "Comments": []}
            for number, (item, label) in enumerate(said.items())
        ]
        dump(home / "out" / f"{rater}.jsonl", lines)
    return home / "out"


def doccano_zip(home, votes, taken_back):
    folder = doccano_folder(home, votes, taken_back)
    with zipfile.ZipFile(home / "out.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return home / "out.zip"


def prodigy(home, votes, taken_back):
    options = [{"id": label, "text": label} for label in LABELS]
    lines = [
        {"audio": item, "_input_hash": 1, "_task_hash": 2, "options": options, "accept": [label]}
        | {
            "answer": "ignore" if (item, rater) in taken_back else "accept",
            "_annotator_id": rater,
            "_session_id": rater,
        }
        for (item, rater), label in votes.items()
    ]
    return dump(home / "votes.jsonl", lines)


def argilla_records(votes, taken_back, responses):
    return [
        {
            "id": item,
            "status": "completed",
            "fields": {"clip": item},
            "metadata": {},
            "suggestions": {},
            "responses": responses(item, said),
        }
        for item, said in by_item(votes).items()
    ]


def argilla(home, votes, taken_back):
    def responses(item, said):
        return {
            "emotion": [
                {"value": label, "user_id": rater, "status": "draft" if (item, rater) in taken_back else "submitted"}
                for rater, label in said.items()
            ]
        }

    return dump(home / "records.json", argilla_records(votes, taken_back, responses), lines=False)


def argilla_server(home, votes, taken_back):
    def responses(item, said):
        return [
            {"user_id": rater, "status": "discarded" if (item, rater) in taken_back else "submitted"}
            | {"values": {"emotion": {"value": label}}}
            for rater, label in said.items()
        ]

    return dump(home / "records.json", argilla_records(votes, taken_back, responses), lines=False)


def argilla_columns(home, votes, taken_back):
    rows = [
        {"id": item, "clip": item, "emotion.responses": list(said.values()), "emotion.responses.users": list(said)}
        | {"emotion.responses.status": ["draft" if (item, rater) in taken_back else "submitted" for rater in said]}
        for item, said in by_item(votes).items()
    ]
    pd.DataFrame(rows).to_parquet(home / "records.parquet")
    return home / "records.parquet"


def argilla_feedback(home, votes, taken_back):
    lines = [
        {"clip": item}
        | {
            "emotion": [
                {"user_id": rater, "value": label, "status": "draft" if (item, rater) in taken_back else "submitted"}
                for rater, label in said.items()
            ]
        }
        for item, said in by_item(votes).items()
    ]
    return dump(home / "records.jsonl", lines)


TITLES = {
    **dict.fromkeys((tidy_csv, tidy_tsv, tidy_jsonl, tidy_parquet, tidy_excel), "one row a vote"),
    wide: "wide table",
    counts: "counts per label",
    label_studio: "Label Studio (JSON)",
    **dict.fromkeys((label_studio_min, label_studio_csv), "Label Studio (JSON-MIN or CSV)"),
    **dict.fromkeys((potato_folders, potato_csv, potato_states), "potato"),
    **dict.fromkeys((doccano_folder, doccano_zip), "doccano"),
    prodigy: "Prodigy",
    **dict.fromkeys((argilla, argilla_server, argilla_columns, argilla_feedback), "Argilla"),
}
TAKES_BACK = (label_studio, prodigy, argilla, argilla_server, argilla_columns, argilla_feedback)
# Their tables may be read as something else, or do not name raters.
NAMELESS = (counts,)


@pytest.mark.parametrize("write", TITLES, ids=lambda write: write.__name__)
@given(truth=truths())
@settings(max_examples=8, deadline=None)
def test_every_vote_is_read_or_reported(write, truth, tmp_path_factory):
    votes, taken_back = truth
    taken_back = taken_back if write in TAKES_BACK else set()
    kept = Counter((item, rater, label) for (item, rater), label in votes.items() if (item, rater) not in taken_back)
    path = write(tmp_path_factory.mktemp("export"), votes, taken_back)
    named = {"emotion"} if write in (counts, wide, prodigy, doccano_folder, doccano_zip) else ()
    one_answer = len({label for _, _, label in kept}) < 2
    if one_answer:
        with pytest.raises(ValueError, match="no votes are left .*only one answer"):
            read_own_votes(path, Reading(question=tuple(named)))
        return
    raters = sorted({rater for _, rater in votes}) if write is wide else ()
    given = Reading(question=tuple(named), rater=raters, format="counts" if write is counts else "")
    found = read_own_votes(path, given)
    assert TITLES[write] in found.spoken
    assert [question.name for question in found.questions] == ["emotion"]
    assert found.votes_read == len(votes) and len(found.frame) == kept.total()
    read = Counter(found.frame[["item", "annotator", "value"]].itertuples(index=False, name=None))
    if write in NAMELESS:
        kept = Counter((item, None, label) for (item, _, label), number in kept.items() for _ in range(number))
    assert read == kept


ODD = [None, 0, -1.5, "", "x", True, [], {}, [1], ["x"], {"a": 1}, [[]], [{}], [None]]
IN_JSON = [tidy_jsonl, label_studio, label_studio_min, prodigy, argilla, argilla_server, argilla_feedback]
IN_JSON += [potato_folders, potato_states, doccano_folder]


def places(value, path=()):
    """The paths to all parts of a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def put(value, path, part):
    if not path:
        return part
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = put(value[path[0]], path[1:], part)
    return copied


@pytest.mark.parametrize("write", IN_JSON, ids=lambda write: write.__name__)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_stands_in_a_record_it_is_read_or_refused_in_a_sentence(write, data, tmp_path_factory):
    votes = {(f"c{n}.wav", rater): LABELS[(n + (rater == "ben")) % 2] for n in range(2) for rater in ("ann", "ben")}
    path = write(tmp_path_factory.mktemp("odd"), votes, set())
    files = sorted(one for one in (path.rglob("*.json*") if path.is_dir() else [path]))
    file = data.draw(st.sampled_from(files))
    text = file.read_text(encoding="utf-8")
    whole = text.startswith(("[", "{\n"))
    records = json.loads(text) if whole else [json.loads(line) for line in text.splitlines()]
    odd = put(records, data.draw(st.sampled_from(list(places(records)))), data.draw(st.sampled_from(ODD)))
    dump(file, odd if whole or isinstance(odd, list) else [odd], lines=not whole)
    try:
        found = read_own_votes(path)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said and str(path) in said and "; " in said and said.endswith(".")
    else:
        assert found.votes_read >= len(found.frame) > 0
