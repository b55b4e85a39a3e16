"""`PeftModel` around a `DistributionQwen2Audio`, whose folders say what they are."""

import logging
import os
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from peft import PeftModel

from annot_hf.models.adapter_files import check_folder, check_repository
from annot_hf.training.lora import check_saved, save_lora

logger = logging.getLogger(__name__)


class AdaptedQwen2Audio(PeftModel):
    """As `PeftModel`, but folders have the configuration and its code, so that `AutoModel` finds the head.

    `add_lora` makes it. `Trainer` writes its checkpoints through it.
    """

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Adapters at the top of the folder, where `Trainer` and `PeftModel.from_pretrained` look for them.

        This is for folders. On the Hub `AutoModel` would take them for those of a plain Qwen2-Audio and drop the head
        without an error: publish with `push_to_hub`, or what `save_lora` writes.

        Raises:
            ValueError: Adapters of another kind or whole weights lie there, these cannot be read again, or are to be pushed.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub is set, and adapters lie elsewhere on the Hub; call push_to_hub instead.")
        check_saved(self, kwargs.get("state_dict"))
        check_folder(save_directory, "adapters at the top")
        super().save_pretrained(save_directory, *args, **{"save_embedding_layers": False, **kwargs})
        if kwargs.get("is_main_process", True):
            self.get_base_model().save_config(save_directory)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """None: it would be a form with nothing filled in."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor: Any = None,
        commit_message: str = "Upload adapters",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload what `save_lora` writes; `AutoModel.from_pretrained(repo_id)` reads it.

        Args:
            repo_id: Repository of the Hub, created if it is not there.
            processor: The processor of its checkpoint, which goes with it.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: Token of the Hub; that of the login when None.
            revision: Branch.
            create_pr: Open a pull request instead.
        """
        base = self.peft_config["default"].base_model_name_or_path or ""
        if os.path.isdir(base):
            logger.warning(
                "The adapters name the folder %s, which others do not have; merge them, or start from the Hub.", base
            )
        check_repository(repo_id, "adapters", token=token, revision=revision)
        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            save_lora(self, folder, processor=processor)
            return api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
