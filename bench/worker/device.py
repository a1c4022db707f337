"""The settings under which a process computes on its device."""

import torch


def set_up_device(device: torch.device, *, tf32: bool = False) -> None:
    """Make a GPU the current one, with fp32 products in full or in TF32, and without cuDNN's
    attention.

    On some GPUs torch prefers that under AMP. It has given gradients that are not numbers with
    masks (pytorch#196678, torch 2.13), and builds a plan for every new shape of a batch, within a
    step that is timed.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.enable_cudnn_sdp(False)
