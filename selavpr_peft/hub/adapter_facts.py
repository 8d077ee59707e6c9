"""What is known of a saved adapter from its own files, without its backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from selavpr_peft.errors import CheckpointError
from selavpr_peft.evaluation.protocol import ADAPTER_DIGEST
from selavpr_peft.hub.adapter_folder import WEIGHTS_NAME, read_adapter_config
from selavpr_peft.retrieval.fingerprint import state_fingerprint
from selavpr_peft.tuner.config import SelaConfig


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """An adapter in numbers.

    Args:
        config: Its settings.
        fingerprint: Digest of its weights.
        num_parameters: Numbers in its tensors.
        num_bytes: Size of the file of weights.
    """

    config: SelaConfig
    fingerprint: str
    num_parameters: int
    num_bytes: int

    @classmethod
    def of(cls, folder: Path) -> "AdapterFacts":
        """Read them.

        Args:
            folder: Folder of the adapter.

        Raises:
            CheckpointError: If settings or weights cannot be read.
        """
        path = folder / WEIGHTS_NAME
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); save or fetch the adapter again.") from error
        return cls(
            config=read_adapter_config(folder),
            fingerprint=state_fingerprint(state),
            num_parameters=sum(tensor.numel() for tensor in state.values()),
            num_bytes=path.stat().st_size,
        )

    def check_report(self, report: Mapping[str, Any]) -> None:
        """Raise unless a report is of these weights, or says whom it quotes.

        Args:
            report: Evaluation report, as `selavpr evaluate --json` writes it.

        Raises:
            ValueError: If it is of other weights, does not say of which, or is no report.
        """
        if not isinstance(report, Mapping) or not {"protocol", "retrieval"} <= set(report):
            raise ValueError(
                "A report must be the JSON of `selavpr evaluate --json PATH`, with 'protocol' and 'retrieval'."
            )
        if quoted_from(report) is None and report["protocol"].get(ADAPTER_DIGEST) != self.fingerprint:
            found = report["protocol"].get(ADAPTER_DIGEST, "none")
            raise ValueError(
                f"The report must be of the weights with digest {self.fingerprint}, got {found}; evaluate this adapter"
                " with `selavpr evaluate --adapter ... --json PATH`. Figures of others need 'quoted_from' with name"
                " and url."
            )


def quoted_from(report: Mapping[str, Any]) -> dict[str, str] | None:
    """Tell whose figures a report holds; None for what was measured with this package.

    Args:
        report: An evaluation report; quoted ones have a key `quoted_from` with "name" and "url".
    """
    return report.get("quoted_from")
