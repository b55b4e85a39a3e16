"""Web page of a metric, linked into its folder; `evaluate.utils.launch_gradio_widget` does not work with Gradio 6."""

import json
import pathlib

import evaluate
import gradio as gr
import pandas as pd
from evaluate.utils.gradio import infer_gradio_input_types, json_to_string_type, parse_gradio_data, parse_readme

HERE = pathlib.Path(__file__).parent
SHARED = ("app", "distribution_metric", "measures")

(module,) = (path for path in HERE.glob("*.py") if path.stem not in SHARED)
metric = evaluate.load(str(module))
names, types = list(metric.features), infer_gradio_input_types(metric.features.values())
rows = zip(*map(metric.example.get, names), strict=True)
EXAMPLE = [[json.dumps(value) if isinstance(value, list) else value for value in row] for row in rows]
title = next(line[2:] for line in (HERE / "README.md").read_text().splitlines() if line.startswith("# "))


def compute(table: pd.DataFrame) -> str:
    """The metric of the rows of the table, or the reason why there is none."""
    try:
        return str(metric.compute(**parse_gradio_data(table, types)))
    except (ValueError, IndexError) as error:
        raise gr.Error(str(error)) from error


demo = gr.Interface(
    fn=compute,
    inputs=gr.Dataframe(value=EXAMPLE, headers=names, column_count=len(names), datatype=json_to_string_type(types)),
    outputs=gr.Textbox(label=metric.name),
    title=title,
    description=metric.info.description,
    article=parse_readme(str(HERE / "README.md")),
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
