"""MOSI-Subjectivity: a form about the emotions in a short clip, filled in by several raters, with highlighted words.

The form is that of arXiv 2211.13196: which of six emotions is most present, which are present at all, whether there is
any emotion, and which words show it. Its authors published no files, so the layout is ours; see the README.
"""

import re
from functools import cached_property
from pathlib import Path

import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.files import read_text
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
# Separates the labels of `all_present`.
BETWEEN = ";"
# Transcripts of CMU-MOSI by segment, below one of these folders: one file a video.
HOMES = ("Raw/Transcript", "Transcript")
SEGMENTED = {
    "Segmented/*.annotprocessed": re.compile(r"(?P<clip>\d+)_DELIM_(?P<text>.*)", re.ASCII),
    "Segmented/Combined/*.txt": re.compile(
        r"(?P<video>.+?)___(?P<clip>\d+)___[\d.]+___[\d.]+___(?P<text>.*)", re.ASCII
    ),
}


class MosiSubjectivity(VoteCorpus):
    """Reader of `clips.csv` or the transcripts of CMU-MOSI, `answers.csv` and `highlights.csv`."""

    name = "mosi_subjectivity"
    version = "1.0.0"
    license = "other"
    language = "en"
    shareable = "votes"
    homepage = "https://arxiv.org/abs/2211.13196"
    access = (
        "The votes of the paper were never published; collect your own in the layout of the README. The clips are those of "
        "CMU-MOSI (http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/), whose terms hold for its transcripts."
    )
    citation = (
        "Sampath, Lin, Morency: SeedBERT: Recovering Annotator Rating Distributions from an Aggregated Label. "
        "arXiv:2211.13196, 2022."
    )
    questions = (
        Question.category("most_present", EMOTIONS, prompt="Which emotion is most present?"),
        Question.category(
            "all_present", EMOTIONS, multiple=True, secondary_to="most_present", prompt="Which emotions are present?"
        ),
        Question.category("any_emotion", ("yes", "no"), prompt="Is there any emotion?"),
    )
    default_questions = ("most_present",)

    def read_items(self) -> pd.DataFrame:
        """One row per clip, with all further columns of the file; clips of a video are in one split."""
        path = self.label_file("clips.csv", required=False)
        if path is None:
            items = self._transcripts()
            return items.assign(split=split_by_group(items["video"]))
        clips = csv_frame(path, ["clip", "video", "text"], further=True)
        refuse_row(path, clips["row"], "clip", clips["clip"], clips["clip"].duplicated(), "must be listed once")
        refuse_row(path, clips["row"], "video", clips["video"], clips["video"].str.strip() == "", "must name the video")
        items = clips.drop(columns="row").rename(columns={"clip": "item"})
        items = items.where(items != "", None)
        return items if "split" in items else items.assign(split=split_by_group(items["video"]))

    def read_votes(self) -> VoteTable:
        """The three questions of the form; a rater fills in one form per clip."""
        form = self._answers
        chosen = (
            form["all_present"].str.split(BETWEEN).map(lambda words: [word.strip() for word in words if word.strip()])
        )
        several = form.assign(value=chosen.map(lambda words: words or [None])).explode("value")
        named = {"most_present": form, "any_emotion": form}
        rows = {name: table[table[name] != ""].assign(value=table[name]) for name, table in named.items()}
        most, every, some = form["most_present"], chosen.map(set), form["any_emotion"]
        who = form["clip"] + " by " + form["rater"]
        without = every.map(lambda words: not words)
        outside = pd.Series([bool(one) and one not in words for one, words in zip(most, every, strict=True)])
        for reason, found in (
            ("forms with no most present emotion, no vote on it", most == ""),
            ("forms that do not say whether there is any emotion, no vote on it", some == ""),
            ("forms that see no emotion and name one, kept", (some == "no") & ((most != "") | ~without)),
            ("forms that see an emotion and name none, kept", (some == "yes") & (most == "") & without),
            ("forms whose most present emotion is not among all present, kept", outside),
        ):
            self.note(reason, list(who[found]))
        tables = []
        for question in self.questions:
            table = {**rows, "all_present": several}[question.name]
            if len(table):
                columns = {"item": table["clip"], "annotator": table["rater"], "value": table["value"]}
                tables.append(VoteTable.from_columns(question, **columns, duplicates="first", where="answers.csv"))
        return VoteTable.concat(tables)

    def read_spans(self) -> pd.DataFrame | None:
        """The highlighted words, or None without `highlights.csv`."""
        path = self.label_file("highlights.csv", required=False)
        if path is None:
            return None
        table = csv_frame(path, ["clip", "rater", "start", "end"], further=True)
        columns = [name for name in ("clip", "rater", "start", "end", "words") if name in table]
        return table[columns].rename(columns={"clip": "item", "rater": "annotator"})

    def _transcripts(self) -> pd.DataFrame:
        """One row per segment of CMU-MOSI, called by the video and its number."""
        rows, again = {}, []
        for form, line_form in ((f"{home}/{form}", line) for home in HOMES for form, line in SEGMENTED.items()):
            for found in sorted(self.root.glob(form)):
                if found.name[0] == ".":
                    continue
                path = self.label_file(found.relative_to(self.root).as_posix())
                for number, line in enumerate(read_text(path).splitlines(), start=1):
                    if line.strip():
                        video, clip, text = _segment(path, number, line, line_form)
                        again += [clip] if clip in rows else []
                        rows.setdefault(clip, {"item": clip, "video": video, "text": text})
        if not rows:
            self.label_file("clips.csv", *(f"{home}/Segmented" for home in HOMES))
        self.note("segments that stand again, the first transcript used", again)
        return pd.DataFrame(rows.values())

    @cached_property
    def _answers(self) -> pd.DataFrame:
        """The forms as text, one row each."""
        path = self.label_file("answers.csv")
        form = csv_frame(path, ["clip", "rater", *(question.name for question in self.questions)])
        form = form.apply(lambda column: column.str.strip() if column.name != "row" else column)
        for name in ("clip", "rater"):
            refuse_row(path, form["row"], name, form[name], form[name] == "", "must be a name")
        again = form.duplicated(["clip", "rater"])
        refuse_row(path, form["row"], "rater", form["rater"], again, "must fill in one form a clip")
        for name in ("most_present", "any_emotion"):
            labels = next(question.labels for question in self.questions if question.name == name)
            rule = f"must be {', '.join(labels)} or blank"
            refuse_row(path, form["row"], name, form[name], ~form[name].isin([*labels, ""]), rule)
        odd = form["all_present"].map(
            lambda words: not {word.strip() for word in words.split(BETWEEN)} <= {*EMOTIONS, ""}
        )
        rule = f"must be labels with {BETWEEN!r} between them, of {', '.join(EMOTIONS)}, or blank"
        refuse_row(path, form["row"], "all_present", form["all_present"], odd, rule)
        return form


def _segment(path: Path, number: int, line: str, form: re.Pattern) -> tuple[str, str, str | None]:
    """Video, name and transcript of the segment on a line."""
    match = form.fullmatch(line.strip())
    video = path.name.removesuffix(path.suffix)
    if not match or match.groupdict().get("video", video) != video:
        refuse_row(path, [number], "line", [line], [True], f"must be a segment of {video}, such as 1_DELIM_TEXT")
    return video, f"{video}_{match['clip']}", match["text"].strip() or None
