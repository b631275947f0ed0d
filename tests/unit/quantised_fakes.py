"""As much of bitsandbytes as `train.quantised` calls: layers that remember how they were made."""

import torch


class Params4bit(torch.nn.Parameter):
    def __new__(cls, data, requires_grad=True, quant_type="fp4", compress_statistics=True):
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.told = {"quant_type": quant_type, "compress_statistics": compress_statistics}
        return made

    def to(self, device):
        self.told["device"] = device
        return self


class Linear4bit(torch.nn.Linear):
    """Multiplies by what was to be packed, as it is."""

    def __init__(self, input_features, output_features, bias=True, **told):
        device = told.pop("device")
        super().__init__(input_features, output_features, bias, device=device)
        self.told = told
