"""What a run shows while it trains: a line an epoch, the same in a terminal and in a log file."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from annot_hf.models.measures import closed_gap

_EPOCH_COLUMNS = {"epoch": 7, "training loss": 15, "validation JSD": 16, "gap closed": 12, "time left": 16}


def tell(line: str) -> None:
    """Print a line, above the bars that are shown, if there are any."""
    tqdm.write(line)


def show_epochs(trainer: Trainer, marginal_kl: float) -> None:
    """Have a trainer show an `EpochTable` instead of what the library logs."""
    for stock in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(stock)
    trainer.add_callback(EpochTable(marginal_kl))


class EpochTable(TrainerCallback):
    """A line for each validation pass, or each logged loss without any, and in a terminal a bar of the steps.

    The JSD (nats) is of the validation split, and the gap is that from the marginal to its targets, of which the model closes
    so many per cent (`closed_gap`). The time left (h:mm:ss) is estimated from the steps so far; early stopping shortens it.

    Args:
        marginal_kl: Mean KL divergence (nats) of the validation targets from the marginal of the training votes.
    """

    def __init__(self, marginal_kl: float) -> None:
        self.marginal_kl, self.bar, self.loss = marginal_kl, None, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print the head of the table."""
        if not state.is_world_process_zero:
            return
        self.begun, self.first, self.loss = time.monotonic(), state.global_step, None
        # one for every checkpoint that is saved would stand between the lines
        self.bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        tell("".join(name.rjust(width) for name, width in _EPOCH_COLUMNS.items()))
        # none where no terminal is
        quiet = args.disable_tqdm or None
        self.bar = tqdm(total=state.max_steps, initial=self.first, unit="step", leave=False, disable=quiet)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Keep the training loss; without validation passes it is a line."""
        self.loss = (logs or {}).get("loss", self.loss)
        if args.eval_strategy == "no" and "loss" in (logs or {}):
            self._show(state, {})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Print a line; not after training, when the best epoch is measured once more."""
        self._show(state, metrics or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            if self.bars:
                logging.enable_progress_bar()
        self.bar = None

    def _show(self, state: Any, metrics: Mapping[str, float]) -> None:
        if self.bar is None:
            return
        done = state.global_step - self.first
        left = (time.monotonic() - self.begun) / done * (state.max_steps - state.global_step) if done else None
        gap = float(closed_gap(metrics["eval_kl"], self.marginal_kl)) if "eval_kl" in metrics else float("nan")
        cells = (
            f"{state.epoch or 0:.3g}",
            "–" if self.loss is None else f"{self.loss:.4f}",
            f"{metrics['eval_jsd']:.4f}" if "eval_jsd" in metrics else "–",
            "–" if gap != gap else f"{round(gap, 1) + 0:.1f} %",
            "–" if left is None else str(timedelta(seconds=round(left))),
        )
        tell("".join(cell.rjust(width) for cell, width in zip(cells, _EPOCH_COLUMNS.values(), strict=True)))
