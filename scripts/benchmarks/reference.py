"""The yardstick: the same network in the published manner, written for the benchmark and used nowhere else.

Pictures are laid out (batch, channel, time, frequency), nothing is masked, GRUs are torch's bidirectional ones over
padded batches of random utterances. It has the sizes of DeepSpeech2 (asr/models/deep_speech2.py), and the
same number of parameters.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from asr.models.deep_speech2 import DeepSpeech2


class PublishedDeepSpeech2(nn.Module):
    """Log-probabilities (B, T', V) of features (B, F, T), with the sizes of another model."""

    def __init__(self, model: DeepSpeech2) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for conv, norm in zip(model.convs, model.norms, strict=True):
            assert isinstance(conv, nn.Conv2d)
            sides = (side[::-1] for side in (conv.kernel_size, conv.stride, conv.padding))
            time_major = nn.Conv2d(conv.in_channels, conv.out_channels, *sides)  # type: ignore[arg-type]
            self.convs.append(nn.Sequential(time_major, nn.BatchNorm2d(norm.num_features), nn.Hardtanh(0, 20)))
        if model.conv_norm is not None:
            self.convs.append(nn.Sequential(nn.BatchNorm2d(model.conv_norm.num_features), nn.ReLU()))
        sizes = [gru.forward_gru.input_size for gru in model.grus]
        hidden = model.grus[0].forward_gru.hidden_size
        self.grus = nn.ModuleList(nn.GRU(size, hidden, bidirectional=True, batch_first=True) for size in sizes)
        self.norm = nn.LayerNorm(2 * hidden) if isinstance(model.output_norm, nn.LayerNorm) else nn.Identity()
        self.output = nn.Linear(2 * hidden, model.output.out_features)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, F, T), padding and all."""
        x = features.transpose(1, 2).unsqueeze(1)
        for conv in self.convs:
            x = conv(x)
        x = x.transpose(1, 2).flatten(2)  # (B, C, T, F) -> (B, T, C * F)
        for gru in self.grus:
            x, _ = gru(x)
        return F.log_softmax(self.output(self.norm(x)), -1)
