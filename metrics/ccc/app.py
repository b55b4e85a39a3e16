"""Web page of the metric; replaces `evaluate.utils.launch_gradio_widget`, which does not work with Gradio 6."""

import pathlib

import evaluate
import gradio as gr
import pandas as pd
from evaluate.utils.gradio import infer_gradio_input_types, json_to_string_type, parse_gradio_data, parse_readme

HERE = pathlib.Path(__file__).parent
EXAMPLE = [[0.1, 0.2], [0.4, 0.3], [0.9, 1.0]]

metric = evaluate.load(str(HERE / "ccc.py"))
names, types = list(metric.features), infer_gradio_input_types(metric.features.values())


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
    title="Concordance correlation coefficient",
    description=metric.info.description,
    article=parse_readme(str(HERE / "README.md")),
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
