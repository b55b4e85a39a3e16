"""After `import annot_hf`, the library's Auto classes and `pipeline` know our models, and run no code of a checkpoint.

Nothing is loaded for it: a finder of modules waits until the library loads its own, and our models are registered when one of
the Auto classes is first asked for something.
"""

import functools
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."
# What is asked for a model, by the module that has it.
_ASKED = {
    f"{_AUTO}configuration_auto": ("AutoConfig", ("from_pretrained", "for_model")),
    f"{_AUTO}modeling_auto": ("AutoModel", ("from_pretrained", "from_config")),
}
_PIPELINES = "transformers.pipelines"


def register_models() -> None:
    """Register every configuration and model with the library's Auto classes; calling it again is harmless."""
    from transformers import AutoConfig, AutoModel

    from .modeling_annotator import AnnotatorModel
    from .modeling_distribution import DistributionModel
    from .modeling_distribution_qwen2_audio import DistributionQwen2Audio
    from .modeling_log_mel import LogMelModel
    from .modeling_seedbert import SeedBert

    for model in (LogMelModel, DistributionModel, AnnotatorModel, SeedBert, DistributionQwen2Audio):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)


def await_transformers() -> None:
    """See to it that the library knows our models as soon as it is asked for one, whether or not it is loaded already."""
    sys.meta_path.insert(0, _Finder())
    for name in (*_ASKED, _PIPELINES):
        if name in sys.modules:
            _ready(sys.modules[name])


class _Finder:
    """Finds the modules that matter where they are anyway, and prepares them once they are loaded."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _ASKED and name != _PIPELINES:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), _ready(module))
        return spec


def _ready(module: ModuleType) -> None:
    if module.__name__ == _PIPELINES:
        module.pipeline = _with_ours(module.pipeline)
        # where it was looked up already
        library = vars(sys.modules["transformers"])
        library.update({"pipeline": module.pipeline} if "pipeline" in library else {})
        return
    auto, names = _ASKED[module.__name__]
    holder = getattr(module, auto)
    for name in names:
        setattr(holder, name, classmethod(_registering(holder, name, vars(holder)[name])))


def _registering(holder: type, name: str, stock: classmethod) -> Any:
    """The method of a class, as it is but for the first call, which registers our models and puts it back."""

    @functools.wraps(stock.__func__)
    def ask(cls: type, *args: Any, **kwargs: Any) -> Any:
        setattr(holder, name, stock)
        register_models()
        return stock.__func__(cls, *args, **kwargs)

    return ask


def _with_ours(stock: Any) -> Any:
    """The library's `pipeline`, which for our models takes our pipeline class from here, and not from the checkpoint."""
    import inspect

    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def pipeline(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        if given.get("pipeline_class") is None:
            kwargs |= _pipeline_of(given)
        return stock(*args, **kwargs)

    return pipeline


def _pipeline_of(given: dict[str, Any]) -> dict[str, Any]:
    """Our pipeline class as an argument of `pipeline`, if its arguments name a model of ours and its task."""
    from os import PathLike, fspath

    from transformers import CONFIG_MAPPING, PreTrainedConfig

    from . import opinion_pipeline

    source = given.get("config") or given.get("model")
    config = getattr(source, "config", source)
    if isinstance(source, str | PathLike):
        hub = {name: given[name] for name in ("revision", "token") if name in given}
        hub |= {name: value for name, value in given.get("kwargs", {}).items() if name == "local_files_only"}
        try:
            found, _ = PreTrainedConfig.get_config_dict(fspath(source), **hub)
        except (OSError, ValueError):
            # the library says what is wrong
            return {}
        register_models()
        kind = CONFIG_MAPPING[found["model_type"]] if found.get("model_type") in CONFIG_MAPPING else None
        config = kind.from_dict(found) if _of_ours(kind) else None
    for task, facts in getattr(config, "custom_pipelines", {}).items() if _of_ours(type(config)) else ():
        if given.get("task") in (None, task):
            return {"pipeline_class": getattr(opinion_pipeline, facts["impl"].rpartition(".")[-1])}
    return {}


def _of_ours(kind: type | None) -> bool:
    return getattr(kind, "__module__", "").startswith("annot_hf.models.")
