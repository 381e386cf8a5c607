"""Train the recognizer; a minute on one core. The weights go to ``build/speech/weights.safetensors``."""

from __future__ import annotations

import numpy as np
import torch
from data import energies, utterances
from model import WEIGHTS, Recognizer
from safetensors.torch import save_file
from torch import Tensor, nn

SEED, UTTERANCES, EPOCHS, BATCH = 0, 1200, 7, 16


def batch_of(samples: list[tuple[Tensor, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energies filled up to one length, tokens in a row, and the steps and tokens of each sample."""
    heard = nn.utils.rnn.pad_sequence([each for each, _ in samples], batch_first=True, padding_value=np.log(1e-3))
    steps = torch.tensor([(len(each) + 1) // 2 for each, _ in samples])
    tokens = torch.from_numpy(np.concatenate([said + 1 for _, said in samples]))
    return heard.transpose(1, 2), tokens, steps, torch.tensor([len(said) for _, said in samples])


def main() -> None:
    """Train, and write the weights."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    samples = [(torch.from_numpy(energies(sound).T), said) for sound, said in utterances("train", UTTERANCES)]
    module = Recognizer().train()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01)
    steps = UTTERANCES // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(UTTERANCES)[: steps * BATCH].view(steps, BATCH):
            heard, tokens, lengths, counts = batch_of([samples[index] for index in chosen])
            likely = module(heard)["scores"].log_softmax(2).transpose(0, 1)
            value = nn.functional.ctc_loss(likely, tokens, lengths, counts)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {value.item():.3f}", flush=True)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.eval().state_dict(), WEIGHTS)


if __name__ == "__main__":
    main()
