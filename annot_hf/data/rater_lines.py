"""Label files of the MSP laboratory: blocks of a line about a clip, then one line a rater, whose fields are cut by Arrow.

```
MSP-PODCAST_0001_0008.wav; N; A:2.200000; V:4.000000; D:2.600000;
WORKER00000325; Neutral; Neutral,Concerned; A:2.000000; V:4.000000; D:2.000000;
```

MSP-Podcast, MSP-IMPROV, MSP-Face and WHiSER have them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annot_hf.data.encoding import line_batches, refuse_row

# Text columns, and `row`, the line in the file from 1.
LineColumns = dict[str, pa.Array]

RATER_FIELDS = ("WorkerID", "EmoClass_Major", "EmoClass_Second")
CLIP_LINE = r"^\s*(?P<name>[^;]*\.(?i:wav|avi))\s*;\s*(?P<letter>[^;]*?)\s*(?:;|$)"


def text_matches(texts: Any, pattern: str) -> np.ndarray:
    """Which texts match a pattern, as booleans."""
    return np.asarray(pc.match_substring_regex(pa.array(texts, pa.string()), pattern).fill_null(False))


def rater_blocks(path: Path, ratings: Mapping[str, str]) -> Iterator[tuple[LineColumns, LineColumns]]:
    """Stream the lines about clips and the rater lines of a file, each with `row` and the clip as `FileName`.

    Args:
        path: The file.
        ratings: Column of each letter before a ":", such as {"A": "EmoAct"}; found by name, in any order.

    Yields:
        Of clips, FileName, EmoClass (a letter) and the ratings; of raters, `RATER_FIELDS` in place of EmoClass.
    """
    clip = pa.array([None], pa.string())
    for batch in line_batches(path):
        about = pc.match_substring_regex(batch["line"], CLIP_LINE)
        heads = {name: column.filter(about) for name, column in batch.items()}
        parts = pc.extract_regex(heads["line"], CLIP_LINE)
        clips = pa.concat_arrays([clip, parts.field("name")])
        names = clips.take(pa.array(np.cumsum(about)))
        clip = clips[-1:]
        rated = pc.and_not(pc.match_substring_regex(batch["line"], r"\S"), about)
        lines = {name: column.filter(rated) for name, column in (batch | {"FileName": names}).items()}
        heads |= {"FileName": parts.field("name"), "EmoClass": parts.field("letter")}
        yield heads | _ratings(heads["line"], ratings), cut_rater_lines(path, lines, "line", ratings)


def cut_rater_lines(path: Path, batch: LineColumns, column: str, ratings: Mapping[str, str]) -> LineColumns:
    """The batch with the fields of its rater lines, `WORKER; primary; secondary,...; A:4; V:4; D:4;`, which `column` holds.

    Free text may hold any sign, so rater and primary label are cut from the left, and the ratings from the right.
    """
    letters = "".join(ratings)
    line = (
        r"(?s)^\s*(?P<WorkerID>[^;]*?)\s*;\s*(?P<EmoClass_Major>[^;]*?)\s*;(?P<EmoClass_Second>.*?)"
        rf"(?P<ratings>(?:;\s*[{letters}]\s*:[^;]*){{{len(letters)}}});?\s*$"
    )
    parts = pc.extract_regex(batch[column], line)
    cut = {name: parts.field(name) for name in RATER_FIELDS}
    cut |= _ratings(pc.if_else(parts.is_valid(), parts.field("ratings"), ""), ratings)
    bad = ~np.all([cut[name].is_valid() for name in ratings.values()], axis=0)
    shown = " ".join(f"{letter}:4;" for letter in letters)
    refuse_row(path, batch["row"], column, batch[column], bad, f"must read 'WORKER1; Neutral; Neutral,Sad; {shown}'")
    return batch | cut


def _ratings(texts: pa.Array, ratings: Mapping[str, str]) -> LineColumns:
    """What follows each letter and its ":", null where there is none."""
    found = {}
    for letter, name in ratings.items():
        parts = pc.extract_regex(texts, rf";\s*{letter}\s*:\s*(?P<rating>[^;]*)")
        # A field does not know that its struct is null.
        found[name] = pc.if_else(parts.is_valid(), parts.field("rating"), None)
    return found
