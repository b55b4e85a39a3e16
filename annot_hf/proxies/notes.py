"""What should be known of a run beside its counts."""

from annot_hf.data.yaml_text import printable
from annot_hf.proxies.ledger import Ledger
from annot_hf.proxies.prompts import LONGEST
from annot_hf.proxies.session import Session

_WITHOUT = {
    "seed": "a seed: asked again, it may be answered otherwise",
    "system": "a system message: its words stood before the question",
    "max_tokens": "max_tokens: max_completion_tokens was sent",
    "temperature": "a temperature: all annotators had that of the server, and only their instructions differ",
}


def notes_of(session: Session) -> list[str]:
    """What should be known beside the counts."""
    ledger, alone = session.ledger, session.job.without_transcript
    unsent = ledger.counts(session.job.rows, len(session.job.annotators))["not sent"]
    said = {
        f"{unsent} questions were not sent, since their clips could not be read here; replies.parquet says why, and the next "
        "run tries again.": unsent,
        f"{int(ledger.cut.sum())} transcripts were cut to the {LONGEST} characters that a prompt takes.": ledger.cut.any(),
        f"{ledger.cut_off} questions were under way when earlier runs were killed, and may have been paid for; those that "
        "are still open are asked again under the same Idempotency-Key.": ledger.cut_off,
        f"{ledger.lost} answers were cut off, too late or unreadable; they may have been paid for.": ledger.lost,
        f"{ledger.repeated} records of the log repeat another one word for word; they count nowhere.": ledger.repeated,
        f"{ledger.spare} answers are to questions that had one before; they were paid for, and the first counts.": (
            ledger.spare
        ),
        f"{len(session.unsaved)} records could not be written to {session.log.path} and count nowhere; each is a line on the "
        "terminal: append them to that file as they are before the next run, or what they answer is asked and paid for "
        "again.": session.unsaved,
        _rejections(ledger): ledger.reasons,
        f"{alone} of {len(session.job.rows)} items have no transcript: all their annotators have the instruction for audio "
        "alone, and only the temperature differs.": alone,
        f"The cost of {ledger.unpriced} answers is not known: the server does not report it, and no prices were given.": (
            ledger.unpriced and ledger.dearest is not None
        ),
    }
    omitted = [
        f"{count} of {ledger.answers} answers are to questions without {_WITHOUT[name]}; the server does not take it, or "
        "--omit said so."
        for name, count in sorted(ledger.omitted.items())
    ]
    return [*(note for note, holds in said.items() if holds), *omitted]


def _rejections(ledger: Ledger) -> str:
    """What the server said most often of what it rejected."""
    if not ledger.reasons:
        return ""
    (reason, count), total = ledger.reasons.most_common(1)[0], ledger.reasons.total()
    said = printable(reason)  # earlier versions wrote it down as it came
    return f"{total} questions were rejected by the server, {count} of them with: {said} (--retry-rejected asks them again)."
