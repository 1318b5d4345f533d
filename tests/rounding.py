"""Arithmetic as another processor rounds it: what depends on its last digits shows on this one.

No two processors sum in one order, and their exponential functions differ in the last digit. Under ``Rounding`` every
result of a PyTorch operation that is not exact by the standard of floating-point numbers is off by a small factor. The
factor depends on the value, its place in the tensor and the seed, so that the same call still gives the same number
twice, as on one machine; two calls that are equal on paper, with other batches say, are not equal to the last digit.

    ROUNDING=1 pytest tests        each test under it; another number, other errors
"""

import os

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What IEEE 754 leaves open: sums, products of matrices, functions. Copies, +, -, *, / and the root are exact everywhere.
NOT_EXACT = {
    *("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "addr", "cdist"),
    *("sum", "nansum", "mean", "var", "std", "var_mean", "std_mean", "cumsum", "prod", "trace"),
    *("norm", "linalg_vector_norm", "logsumexp", "logcumsumexp", "_softmax", "_log_softmax"),
    *("_softmax_backward_data", "_log_softmax_backward_data", "nll_loss_forward", "mse_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "smooth_l1_loss", "huber_loss"),
    *("_linalg_eigh", "_linalg_svd", "linalg_qr", "linalg_eig", "linalg_lstsq", "_linalg_det"),
    *("_linalg_solve_ex", "linalg_inv_ex", "linalg_cholesky_ex", "linalg_solve_triangular"),
    *("linalg_pinv", "linalg_matrix_exp", "_linalg_slogdet", "cholesky_inverse"),
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "atan2"),
    *("tanh", "tanh_backward", "sigmoid", "sigmoid_backward", "erf", "erfinv", "gelu", "silu"),
    *("softplus", "elu", "rsqrt", "pow", "addcmul", "addcdiv", "lerp", "special_entr"),
    *("convolution", "convolution_backward", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "native_layer_norm", "native_group_norm"),
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("native_layer_norm_backward", "native_batch_norm_backward", "upsample_bilinear2d"),
    *("_fft_r2c", "_fft_c2c", "_fft_c2r", "_scaled_dot_product_flash_attention_for_cpu"),
}
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Rounding(TorchDispatchMode):
    """While it is entered, results that are not exact are off by up to a part ``float32`` or ``float64`` of them.

    Args:
        seed: which errors; the same seed, the same errors.
        float32, float64: the largest relative error.
    """

    def __init__(self, seed: int = 0, float32: float = 5e-7, float64: float = 1e-15):
        super().__init__()
        self.seed, self.size = seed, {torch.float32: float32, torch.float64: float64}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name in NOT_EXACT and not (name == "pow" and isinstance(args[1], int)):
            for i, x in enumerate(found if isinstance(found, (tuple, list)) else (found,)):
                if isinstance(x, torch.Tensor) and x.dtype in self.size and x.numel():
                    self._disturb(x, hash((self.seed, i)) + sum(name.encode()))
        return found

    def _disturb(self, x: torch.Tensor, key: int) -> None:
        bits = x.contiguous().view(INTEGERS[x.dtype]).to(torch.int64)
        place = torch.arange(x.numel()).view(x.shape)
        mixed = (bits + (place + 1) * 0x9E3779B1 + key % 65536 * 0x85EBCA6B) * 0x27D4EB2F165667C5
        part = ((mixed >> 40) & 0xFFFF).double() / 0x8000 - 1  # -1 to 1, like drawn at random
        x.mul_((1 + self.size[x.dtype] * part).to(x.dtype))


def asked_for() -> Rounding | None:
    """The mode that the environment variable ROUNDING asks for, by a number, or None."""
    asked = os.environ.get("ROUNDING", "")
    return Rounding(int(asked)) if asked else None
