"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# --learning_rate=1e-3 is an override like learning_rate=1e-3.
WORDS = {"ignore_unknown_options": True}
RecipeName = Annotated[str, Argument(help="Recipe file, or the name of one that comes with the package.")]
Overrides = Annotated[list[str] | None, Argument(help="Overrides such as learning_rate=1e-3.")]
Out = Annotated[Path, Option("--out", help="Folder to write.")]
CorpusFolder = Annotated[Path, Option("--corpus", help="Folder or Hub id of an exported corpus.")]
Revision = Annotated[str | None, Option(help="Branch, tag or commit, for a model that is named by its Hub id.")]
OneSplit = Annotated[str, Option(help="Which split.")]
Splits = Annotated[list[str] | None, Option(help="Split to use; may be given several times; all by default.")]
Without = Annotated[list[str] | None, Option(help="System of the plan to leave out; may be given several times.")]
SpeakerResamples = Annotated[int, Option(help="Bootstrap resamples of speakers.")]
RobustClips = Annotated[
    int, Option(min=0, help="Clips, evenly spaced over speakers, that are also predicted altered; 0 for none.")
]
MaxSeconds = Annotated[float, Option(help="Longest clip (s).")]
