r"""One step as the authors' code takes it, where the paper has SAM.

With mixed inputs and labels (mixup, weight lambda) and a share r, ``flat_ratio``:

    L_mix   = lambda L(y) + (1 - lambda) L(y')           at the mixed input, by the whole network
    eps     = rho g / ||g||,  g = grad L_mix             each tensor by its own norm
    theta  <- theta + eps                                and never moved back
    L_flat  = L(y)                                       the head alone, at the old features, labels not mixed
    g       = grad ((1 - r) L_mix + r L_flat)            the gradient that is stepped along

**At a rho that acts** g is the gradient of no loss at one point. The scripts move a weight by giving the parameter other
data (train_CREMA.py in njustkmg/IJCAI25-IGM, commit 19aa8e5: ``param.data = param.data + noise``). What the forward pass
of L_mix has left behind for the backward pass, which comes after the move, does not all follow:

- the activations are those of theta;
- a linear layer passes the gradient on by its *old* weight, of which autograd has kept a transposed view;
- a convolution or a normalisation passes it on by its *moved* weight: there autograd has kept the parameter itself.

L_flat is computed after the move, so its gradient passes the head by the moved weights, and the encoder as above. With an
encoder of linear layers alone,

    g_head    = (1 - r) grad L_mix(theta) + r grad_head L(head(z; theta + eps), y),       z = encoder(x; theta)
    g_encoder = (1 - r) grad L_mix(theta) + r (dz/dtheta)^T dL(head(z; theta + eps), y)/dz

so at r = 0.3 most of it is the plain gradient at theta, without a perturbation. Here the weights are moved in the same
way, so that the same is computed. (In mixed precision, which the scripts do not have, autograd keeps converted copies,
and every layer passes the gradient of the first loss on by its old weight.)

**Where rho is so small** that eps rounds away, both losses are taken at one point, and their sum is a mixup loss again:

    (1 - r) L_mix + r L(y) = lambda' L(y) + (1 - lambda') L(y'),     lambda' = r + (1 - r) lambda

so one backward pass gives the same gradient. Without mixup it is the plain gradient of Eq. 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from igm.methods.base import Batch, Method, Stage
from igm.methods.unimodal import draw_mixup, mix, mixed_cross_entropy
from igm.sam import SAM, perturbation

NO_PERTURBATION = 1e-10  # up to here eps changes fewer than one float32 weight in ten thousand


def released_gradient(method: Method, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
    """Leaves the gradient g above in ``.grad``; returns its loss, (). ``optimizer`` has rho and the norm.

    Args:
        batch: modality -> inputs (n, ...), "label" -> (n,), int64.
    """
    (name,) = stage.modalities
    network, settings = method.model[name], method.settings
    x, y, r = batch[name], batch["label"], settings.flat_ratio
    lam, partner = 1.0, None
    if settings.mixup and x.is_floating_point():  # text, as word numbers, is not mixed
        lam, partner = draw_mixup(settings.mixup, len(y))
    fast = settings.fast and optimizer.rho <= NO_PERTURBATION
    optimizer.zero_grad()
    with method.devices.autocast():
        z = network.encoder(x if partner is None else mix(x, lam, partner))
        loss = _loss(network.head(z), y, r + (1 - r) * lam if fast else lam, partner)
        if not fast:
            moved = [p for p in network.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, moved, retain_graph=True)
            weights = [p.data for p in moved]
            radius = (optimizer.rho, optimizer.adaptive, optimizer.norm)
            for p, eps in zip(moved, perturbation(weights, gradients, *radius)):
                p.data = p.data + eps  # not in place: the docstring above says what hangs on it
            torch.clear_autocast_cache()  # or the head would be computed by the weights it had
            loss = (1 - r) * loss + r * F.cross_entropy(network.head(z), y)
    method.devices.backward(loss)
    return loss


def _loss(logits: Tensor, y: Tensor, lam: float, partner: Tensor | None) -> Tensor:
    if partner is None:
        return F.cross_entropy(logits, y)
    return mixed_cross_entropy(logits, y, lam, partner)
