"""Record or upload speech, and see how the raters of a checkpoint would answer.

`python app.py --make-model` trains a small model on a simulated corpus and starts; `--model` takes the folder or the Hub id of
any other.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import html
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import soundfile
from charts import draw_bars, draw_grid, draw_raters, summarise, tabulate

from annot_hf.data.audio import ANY_LENGTH, audio_info, load_audio
from annot_hf.data.export import export_corpus
from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.simulate import SIMULATION_RATE, SimulatedCorpus, simulate_corpus, synthesise
from annot_hf.models.trunks import input_name_of
from annot_hf.models.waves import AudioError
from annot_hf.report.figures import short
from annot_hf.report.tables import markdown_safe
from annot_hf.training.checkpoints import load_model
from annot_hf.training.inference import predict_inputs
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train

SECONDS = (0.3, 30.0)
MAX_FILE_SIZE = "20mb"
# A peak of -60 dB of full scale; a muted microphone stays below it.
SILENCE = 1e-3
EXAMPLES = {
    "Excited, positive": (0.8, 0.8),
    "Excited, negative": (0.8, -0.8),
    "Calm, positive": (-0.7, 0.6),
    "Calm, negative": (-0.8, -0.7),
}
WAITING = '<div class="waiting">Record yourself or upload a clip: the answer appears here.</div>'
LOGGER = logging.getLogger("annotator_explorer")


class Explorer:
    """A loaded checkpoint that answers for one clip at a time.

    Args:
        source: Checkpoint folder or Hub id.

    Raises:
        ValueError: There is no checkpoint, or it reads text.
    """

    def __init__(self, source: str | Path) -> None:
        self.model, self.processor, facts = load_model(source)
        if input_name_of(self.model.config.trunk_config) == "input_ids":
            raise ValueError(f"{source} holds a model that reads text; give a checkpoint trained on speech.")
        self.questions = tuple(Question.from_dict(question) for question in self.model.config.questions)
        self.raters = len(getattr(self.model.config, "annotators", ()))
        self.corpus = facts.get("corpus", "")

    def predict(self, path: str) -> Predictions:
        """Predict one clip.

        Raises:
            AudioError: The file cannot be read, is too short or too long, or is silent; the message has only its name.
        """
        name = short(Path(path).name, 40)
        source = {"bytes": Path(path).read_bytes(), "path": name}
        seconds = audio_info(source, limits=ANY_LENGTH).seconds
        if not SECONDS[0] <= seconds <= SECONDS[1]:
            raise AudioError(
                f"{name} lasts {seconds:.1f} s; give between {SECONDS[0]:g} and {SECONDS[1]:g} s of speech."
            )
        if np.abs(load_audio(source)).max() < SILENCE:
            raise AudioError(f"{name} is silent; check that the microphone is on and choose the right one.")
        return predict_inputs(self.model, self.processor, [source], max_seconds=SECONDS[1])


def make_model(
    folder: str | Path, overrides: Sequence[str] = (), *, recipe: str = "simulated-annotator", **simulation: Any
) -> None:
    """Simulate a corpus, train a small model on it, and write the checkpoint to `folder`.

    Args:
        folder: Folder to write; files of an earlier checkpoint there are replaced.
        overrides: Overrides of the recipe, such as "num_train_epochs=1".
        recipe: Recipe file or name.
        **simulation: Options of `simulate_corpus`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        export_corpus(SimulatedCorpus(simulate_corpus(root / "simulated", **simulation)), root / "corpus")
        words = [f"corpus={root / 'corpus'}", f"output_dir={root / 'run'}", "report_to=none", *overrides]
        trained = train(load_recipe(recipe, words)).model
        shutil.copytree(trained, folder, dirs_exist_ok=True)


def make_examples(folder: Path) -> list[str]:
    """Four simulated utterances, one from each corner of the valence-activation plane."""
    voices = [{"pitch": 190.0, "tract": 1.08, "gain": 0.0}, {"pitch": 110.0, "tract": 0.95, "gain": 0.0}]
    paths = []
    for number, (name, (activation, valence)) in enumerate(EXAMPLES.items()):
        wave = synthesise(activation, valence, 0.5, voices[number % 2], np.random.default_rng(number))
        paths.append(str(folder / f"{name.lower().replace(', ', '_')}.wav"))
        soundfile.write(paths[-1], wave, SIMULATION_RATE)
    return paths


def build(explorer: Explorer | None, problem: str = "", examples: Sequence[str] = ()) -> gr.Blocks:
    """The page.

    Args:
        explorer: The checkpoint; None shows `problem` instead.
        problem: Why there is no checkpoint and what to do about it.
        examples: Clips to offer, in the order of `EXAMPLES`.
    """
    with gr.Blocks(title="Annotator explorer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        if explorer is None:
            gr.Markdown(f"# Annotator explorer\n{problem}", elem_id="summary")
            return page
        asked = " and ".join(markdown_safe(question.name) for question in explorer.questions)
        who = f"{explorer.raters} raters" if explorer.raters else "raters"
        gr.Markdown(f"# Annotator explorer\nSpeak, and see how {who} would judge the **{asked}** of your voice.")
        gr.Markdown(_caption(explorer), elem_id="caption")
        prompts = [
            f"- *{markdown_safe(question.name)}*: {markdown_safe(question.prompt)}"
            for question in explorer.questions
            if question.prompt
        ]
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                # A share button would send the clip to another server.
                clip = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label=f"Your speech, {SECONDS[0]:g} to {SECONDS[1]:g} s",
                    buttons=["download"],
                    elem_id="clip",
                )
                if examples:
                    gr.Examples(
                        [[path] for path in examples], clip, label="Simulated voices", example_labels=list(EXAMPLES)
                    )
                if prompts:
                    gr.Markdown("\n".join(["The raters were asked:\n", *prompts]))
            with gr.Column(scale=3, min_width=300):
                summary = gr.Markdown(elem_id="summary")
                figure = gr.HTML(WAITING, padding=False, elem_id="figure")
        keep = clip.async_move_resource_to_block_cache

        async def keep_local(path: str | Path | None) -> str | None:
            if str(path).lower().startswith(("http:", "https:")):
                raise gr.Error("This page fetches no files; upload the clip.", print_exception=False)
            return await keep(path)

        # Gradio would fetch any address that a request names instead of an upload.
        clip.async_move_resource_to_block_cache = keep_local
        raters = gr.HTML(padding=False, elem_id="raters")
        with gr.Accordion("Numbers", open=False):
            distribution = gr.Dataframe(label="Distribution", interactive=False, elem_id="distribution")
            ratings = gr.Dataframe(
                label="Each rater", interactive=False, elem_id="ratings", visible=bool(explorer.raters)
            )

        def answer(path: str | None) -> tuple[str, str, str, pd.DataFrame | None, pd.DataFrame | None]:
            if path is None:
                return "", WAITING, "", None, None
            try:
                predictions = explorer.predict(path)
            except AudioError as error:
                problem = f'<div class="waiting problem" role="alert">{html.escape(str(error))}</div>'
                return "**This clip cannot be used.**", problem, "", None, None
            grid = predictions.is_scale and len(predictions.questions) == 2
            drawn = draw_grid(predictions) if grid else draw_bars(predictions)
            people = draw_raters(predictions) if explorer.raters else ""
            return summarise(predictions), drawn, people, *tabulate(predictions)

        # One clip at a time, because torch uses every core for each.
        outputs = [summary, figure, raters, distribution, ratings]
        clip.change(answer, clip, outputs, api_name="predict", concurrency_limit=1, show_progress_on=figure)
    return page


def _caption(explorer: Explorer) -> str:
    """What the prediction means and what it does not."""
    honest = "A prediction of how these raters would answer, not a measurement of what a speaker feels."
    if explorer.corpus == "simulated":
        return (
            f"{honest} The model learnt from **simulated voices and simulated raters**: it shows how the method works "
            "and says nothing about people."
        )
    return f"{honest} The model learnt from the corpus {markdown_safe(explorer.corpus)}." if explorer.corpus else honest


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the page."""
    parser = argparse.ArgumentParser(description="Speak, and see how each rater would answer.")
    default = os.environ.get("ANNOT_HF_MODEL") or str(Path(__file__).parent / "model")
    parser.add_argument("--model", default=default, help="checkpoint folder or Hub id (or set ANNOT_HF_MODEL)")
    parser.add_argument(
        "--make-model", action="store_true", help="first train a small model on a simulated corpus into it"
    )
    parser.add_argument("--port", type=int, help="port; the first free one from 7860 by default")
    options = parser.parse_args(arguments)
    if options.make_model:
        make_model(options.model)
    explorer, problem, examples = None, "", []
    try:
        explorer = Explorer(options.model)
    except ValueError as error:
        problem = f"{error} To train a small one, run `python app.py --make-model`."
        LOGGER.warning(problem)
    if explorer is not None and explorer.corpus == "simulated":
        examples = make_examples(Path(tempfile.mkdtemp()))
    build(explorer, problem, examples).queue(max_size=16).launch(
        server_port=options.port,
        max_file_size=MAX_FILE_SIZE,
        max_threads=8,
        theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css_paths=Path(__file__).parent / "style.css",
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
    )


if __name__ == "__main__":
    main()
