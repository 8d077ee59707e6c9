"""transformers' Trainer for an adapter: saved with a model card and no pickle, and published as it was saved."""

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import Tensor
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy

from selavpr_peft.errors import HubError
from selavpr_peft.files import naming_full_disk
from selavpr_peft.hub.card_figures import Report
from selavpr_peft.hub.pushing import Publication, push_adapter
from selavpr_peft.hub.saving import complete_folder
from selavpr_peft.hub_access import HubAccess

logger = logging.getLogger(__name__)


class AdapterTrainer(Trainer, ABC):
    """Save and publish the active adapter of a model as a folder that a stranger can load and judge.

    Training itself is a subclass's: SelaTrainer.
    """

    @abstractmethod
    def _facts(self) -> tuple[list[Report], dict[str, Any]]:
        """Give what the card is written from: evaluation reports of the weights as they are, and the training."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save with a model card and its facts, and without Trainer's pickled arguments."""
        token, self.args.hub_token = self.args.hub_token, None  # Trainer pickles it with them, if only for a moment
        try:
            with naming_full_disk(Path(self.args.output_dir)):
                super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if not self.args.should_save:  # another process writes
            return
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # what is published must hold no pickle
        reports, training = self._facts()
        complete_folder(
            self._adapter_folder(folder),
            reports=reports,
            training=training,
            name=getattr(self, "hub_model_id", None) or Path(self.args.output_dir).resolve().name,
        )

    def _adapter_folder(self, folder: Path) -> Path:
        """Say where PEFT puts the adapter that is trained."""
        name = self.accelerator.unwrap_model(self.model).active_adapter
        return folder if name == "default" else folder / name

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository that is pushed to.

        Args:
            token: Access token; None for `hub_token`, or the one that is logged in.
            private: Make a new repository private; None for `hub_private_repo`.

        Raises:
            HubError: If the Hub refuses; the message says why and what to do.
        """
        if not self.is_world_process_zero():
            return
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        api = HfApi(token=token or self.args.hub_token)
        private = self.args.hub_private_repo if private is None else private
        url = HubAccess(repo_id=repo_id).make_repository(api, private=private)
        self.hub_model_id, self.push_in_progress = url.repo_id, None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save and publish the adapter with its model card; checkpoints and logs stay here.

        Args:
            commit_message: Message of the commit.
            blocking: Wait until it is done.
            token: Access token; None for `hub_token`, or the one that is logged in.
            revision: Branch to commit to; None for `hub_revision`, or main.
            **kwargs: Not used: the card is written from facts.

        Returns:
            What was published, or a future of it; None in other processes than the first.

        Raises:
            HubError: If the Hub refuses or cannot be reached; the message says why and what to do.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        arguments = Path(self.args.output_dir), commit_message or "Upload adapter", token, revision
        return self._publish(*arguments) if blocking else HfApi().run_as_future(self._publish, *arguments)

    def _publish(
        self, folder: Path, message: str, token: str | None = None, revision: str | None = None
    ) -> Publication:
        return push_adapter(
            self._adapter_folder(folder),
            self.hub_model_id,
            private=self.args.hub_private_repo,
            revision=revision or getattr(self.args, "hub_revision", None),
            token=token or self.args.hub_token,
            message=message,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With the strategy "every_save", publish a checkpoint's adapter; training goes on where the Hub fails."""
        if not self.is_world_process_zero() or self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            return
        try:
            self._publish(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        except HubError as error:
            logger.warning("%s is not published, and training goes on. %s", checkpoint_folder, error)
