"""One reverse step: draw x_{t-1} from q(x_{t-1} | x_t, x_0), paper Eq. 11."""

from ddgan_fast import noise as philox
from ddgan_fast.errors import InputError
from ddgan_fast.ops.backend import always, pick


def posterior_step(x0, x_t, t, table, noise=None, seeds=None, step=None):
    """table[0, t] * x0 + table[1, t] * x_t + table[2, t] * noise.

    x0, x_t: [B, ...] of one shape and dtype.  t: [B] int64, index of the cleaner image, 0 is the last step; it may differ
    within the batch.  table: [3, T] float32, rows: coefficient of x0, of x_t, standard deviation; the last is 0 at t = 0.
    noise: [B, ...] standard normal; or seeds [B] int64 and step, which name it (stream POSTERIOR).
    Returns [B, ...] in x0's dtype, computed in float32 or wider.  Gradients: any order, to x0 and x_t.
    Raises InputError unless exactly one of noise and seeds is given.
    """
    if (noise is None) == (seeds is None) or (seeds is None) != (step is None):
        raise InputError("posterior_step: give either noise, or seeds and step")
    return pick("posterior_step", BACKENDS, x0, x_t)(x0, x_t, t, table, noise, seeds, step)


def reference(x0, x_t, t, table, noise, seeds, step):
    if noise is None:
        noise = philox.normal(seeds, philox.POSTERIOR, step, x0.shape[1:])
    a, b, s = table[:, t].reshape(3, -1, *[1] * (x0.dim() - 1))
    return (a * x0 + b * x_t + s * noise).to(x0.dtype)


BACKENDS = {"reference": (always, reference)}
