"""Models with attention on the hub of Hugging Face, with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from saccade.errors import BadOption, bad_run
from saccade.files import check_folder
from saccade.sharing.card import PICTURE, card_images, draw_maps, write_card
from saccade.sharing.config import CONFIG, WEIGHTS, check_owned
from saccade.sharing.folder import load, save

__all__ = ["HubModel"]

#: Files of a run that `saccade.load` and the card read, and no other.
_RUN_FILES = ("recipe.yaml", "run.json", "result.json", "gallery.npz")
_CHECKPOINTS = "checkpoints"
_CONTENTS = [CONFIG, WEIGHTS, *_RUN_FILES, f"{_CHECKPOINTS}/*"]


class HubModel(nn.Module, ModelHubMixin):
    """A model with its attention that can be pushed to the hub of Hugging Face, and loaded from it.

    `save_pretrained`, `from_pretrained` and `push_to_hub` are those of `huggingface_hub`. They write and read
    the files of `saccade.save` or of a run, and a model card: the attention, maps over images, and for a run
    its recipe and its row of the leaderboard. Nothing in a folder or repository is executed.

    Args:
        content: A model, or the folder of `saccade.save` or of a run.
        images: Input of the model, (B, 3, H, W), on which the card shows the maps. A run has test images.
        backbone: How the model was built, see `saccade.save`.

    Attributes:
        model: The model, in evaluation mode if it was loaded. The input of a run are pixels from 0 to 255.

    Raises:
        BadRun: A folder cannot be loaded.

    Note:
        A run is shared as it was trained: `save_pretrained` refuses it if its weights have changed.

    Example:
        >>> import tempfile, timm, torch, saccade as sc
        >>> from saccade.sharing.hub import HubModel
        >>> model, images = timm.create_model("resnet18", num_classes=5).eval(), torch.rand(2, 3, 64, 64)
        >>> plan = sc.attach(model, "cbam", where="stage", example_inputs=images)
        >>> folder = tempfile.mkdtemp()
        >>> _ = HubModel(model, images).save_pretrained(folder)  # or .push_to_hub("NAME/REPOSITORY")
        >>> torch.equal(HubModel.from_pretrained(folder)(images), model(images))
        True
    """

    def __init__(
        self, content: nn.Module | str | Path, images: Tensor | None = None, *, backbone: str | None = "auto"
    ) -> None:
        super().__init__()
        self._hub_mixin_config = None  # the mixin would write the arguments into config.json
        self.run: Path | None = None
        if isinstance(content, nn.Module):
            self.model = content
        else:
            self.model = load(content)
            self.run = Path(content) if (Path(content) / _RUN_FILES[0]).exists() else None
        self.images, self.backbone = images, backbone

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.model(*arguments, **options)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin would pass fields of config.json as arguments
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> HubModel:
        """Load a model from a folder, or from a repository on the hub.

        Args:
            pretrained_model_name_or_path: A folder, or `NAME/REPOSITORY`.
            revision: Branch, tag or commit of the repository.
            token: Token of the hub; by default that of `hf auth login`.
            cache_dir: Folder of downloads.
            force_download: Whether to download what the cache holds.
            local_files_only: Whether to use the cache alone.

        Raises:
            BadRun: There is no such repository, it cannot be read, or it holds no model of saccade.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).expanduser().is_dir():
            return cls(Path(name).expanduser())
        try:
            folder = snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                allow_patterns=_CONTENTS,
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise bad_run(name, f"is no folder, and cannot be loaded from the hub: {reason}") from error
        return cls(Path(folder))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Save the model and its card as a folder; see `huggingface_hub.ModelHubMixin.save_pretrained`.

        Raises:
            BadRun: The folder cannot be written, or holds a config.json of another program.
            BadOption: The model cannot be saved, see `saccade.save`; or the weights of a run have changed.
        """
        check_folder(Path(save_directory))
        check_owned(Path(save_directory) / CONFIG)  # the mixin removes it
        written: str | None = super().save_pretrained(save_directory, **options)
        return written

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.run is None:
            save(self.model, save_directory, backbone=self.backbone)
        else:
            self._copy_run(self.run, save_directory)
        if (images := card_images(self.run, self.images)) is not None:
            draw_maps(self.model, self.run, images).save(save_directory / PICTURE)

    def _copy_run(self, run: Path, folder: Path) -> None:
        trained, state = load(run).state_dict(), self.model.state_dict()
        if any(not torch.equal(value, state[name].cpu()) for name, value in trained.items()):
            problem = f"the weights are no longer those of {str(run)!r}; save the model alone"
            raise BadOption(f"save_pretrained: {problem}", owner="HubModel", option="content", value=str(run))
        for file in filter(Path.exists, (run / name for name in _RUN_FILES)):
            shutil.copyfile(file, folder / file.name)
        shutil.copytree(run / _CHECKPOINTS, folder / _CHECKPOINTS, dirs_exist_ok=True)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return the card: how to load the model, its attention, and for a run its row and recipe."""
        has_picture = card_images(self.run, self.images) is not None
        return ModelCard(write_card(self.model, self.run, has_picture=has_picture))
