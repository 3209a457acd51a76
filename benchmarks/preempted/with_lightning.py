"""One life of a small training by Lightning, as its documentation has it: the newest checkpoint every five steps.

python -m benchmarks.preempted.with_lightning lightning DIRECTORY
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.preempted.training import PAUSE, STEPS, Diary, leave, rows


def main() -> None:
    """Train to the end, or until somebody else ends it."""
    live(sys.argv[1], Path(sys.argv[2]))


def live(kind: str, home: Path) -> None:
    """One life of it."""
    diary = Diary(home)
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    lightning.seed_everything(7, verbose=False)

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Embedding(64, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 32), torch.nn.ReLU(),
                torch.nn.Linear(32, 64),
            )  # fmt: skip

        def _loss(self, batch: Any) -> Any:
            time.sleep(PAUSE)
            return torch.nn.functional.cross_entropy(self.net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

        def training_step(self, batch: Any, number: int) -> Any:
            return self._loss(batch)

        def validation_step(self, batch: Any, number: int) -> Any:
            self.log("eval_loss", self._loss(batch))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Course(lightning.Callback):
        def __init__(self) -> None:
            self._last = -1

        def on_train_start(self, trainer: Any, module: Any) -> None:
            diary.note("begin", trainer.global_step)
            self._last = trainer.global_step

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step != self._last:
                self._last = trainer.global_step
                diary.note("step", trainer.global_step)
            time.sleep(PAUSE)

    def batches(count: int, first: int, *, shuffle: bool) -> Any:
        tokens = [torch.tensor(row["input_ids"]) for row in rows(count, first)]
        return DataLoader(tokens, batch_size=2, shuffle=shuffle)  # type: ignore[arg-type]

    checkpoints = ModelCheckpoint(home / "run", every_n_train_steps=5, save_top_k=1, save_last=True)
    trainer = lightning.Trainer(
        max_steps=STEPS, accumulate_grad_batches=2, val_check_interval=8, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Course(), checkpoints],
    )  # fmt: skip
    module, last = Net(), home / "run" / "last.ckpt"
    data = batches(96, 0, shuffle=True), batches(16, 96, shuffle=False)
    trainer.fit(module, *data, ckpt_path=str(last) if last.exists() else None)
    if trainer.global_step >= STEPS:
        leave(home, module.state_dict())


if __name__ == "__main__":
    main()
