"""Adam on the gradients of one network, which lie in one buffer; a step changes nothing where something is not finite."""

import torch

from ddgan_fast.errors import CheckpointError, MissingError

FIRST_SCALE, GROWS_AFTER = 2.0**16, 2000  # of fp16: the loss scale at the start, and the steps after which it doubles
MOMENTS = "exp_avg", "exp_avg_sq"


class FlatAdam:
    """Adam (paper C.2) of a network. After `place` the `.grad` of each parameter is a part of `buffer`.

    buffer: [gradients | tail]; one sum over ranks takes both.  tail: the numbers of a step that are reported; `totals` adds them up.
    With `scaled` losses are multiplied by a scale that halves after an overflow and doubles after 2,000 steps without one (fp16).
    """

    def __init__(self, network, train, rate, scaled=False):
        """network: on its device.  train: config.Train.  rate: the first learning rate."""
        self.names, self.parameters = zip(*network.named_parameters(), strict=True)
        device, betas = self.parameters[0].device, (train.beta1, train.beta2)
        if train.optimizer == "apex":
            self.optimiser = _apex()(self.parameters, lr=rate, betas=betas, adam_w_mode=False)
        else:
            self.optimiser = torch.optim.Adam(self.parameters, rate, betas, fused=True, capturable=device.type == "cuda")
            self.optimiser.param_groups[0]["lr"] = torch.tensor(rate, device=device)  # so that a CUDA graph reads the rate of its step
        self.skips = train.optimizer == "adam"  # by itself, where it is told so on the device
        self.scaled = scaled
        self.scale = torch.tensor(FIRST_SCALE if scaled else 1.0, device=device)
        self.finite_steps = torch.zeros((), device=device)  # since the scale last changed
        self.bad_step = torch.full((), -1, device=device)  # the first one since the last `report`, -1 for none

    def place(self, tail):
        """Lay out the buffer for the parameters as they are now, with `tail` numbers behind them."""
        first, count = self.parameters[0], sum(p.numel() for p in self.parameters)
        self.buffer = torch.zeros(count + tail, dtype=first.dtype, device=first.device)
        self.gradients, self.tail = self.buffer[:count], self.buffer[count:]
        self.totals = torch.zeros(2 + tail, dtype=first.dtype, device=first.device)  # steps left out; of the others: norms, tails
        offset = 0
        for parameter in self.parameters:
            parameter.grad = self.buffer.as_strided(parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()

    def set_rate(self, rate):
        """The learning rate of the coming step."""
        group = self.optimiser.param_groups[0]
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def backward(self, loss, tail):
        """Add the gradients of a scalar, and the numbers of the step that go with it, to the buffer."""
        (loss * self.scale if self.scaled else loss).backward()
        self.tail[: len(tail)] += tail

    @torch.no_grad()
    def step(self, number):
        """Adam's step, unless a gradient or number is not finite.  number: of this training step, int64 on the device."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters]) / self.scale
        bad = ~(norm + self.tail.sum()).isfinite()
        if self.skips:
            self.optimiser.found_inf = bad.float()
            self.optimiser.grad_scale = self.scale if self.scaled else None
            self.optimiser.step()
        elif not bad:  # which waits for the device
            self.gradients.div_(self.scale)
            self.optimiser.step()
        good = torch.cat((norm[None], self.tail)).where(~bad, 0.0)
        self.totals += torch.cat((bad[None].to(good.dtype), good))
        self.bad_step.copy_(number.where(bad & (self.bad_step < 0), self.bad_step))
        if self.scaled:
            grows = self.finite_steps + 1 == GROWS_AFTER
            self.scale *= 0.5 ** bad.float() * 2.0 ** (grows & ~bad).float()
            self.finite_steps.copy_((self.finite_steps + 1).where(~bad & ~grows, 0.0))

    def report(self):
        """(steps left out, the first of them or -1, sums over the other steps: norm of the gradient, tail) since the last call."""
        left_out, norm, *tail = self.totals.tolist()
        bad_step = int(self.bad_step)
        self.totals.zero_()
        self.bad_step.fill_(-1)
        return int(left_out), bad_step, norm, tail

    def loss_scale(self):
        """[the scale, the steps since it last changed] as a checkpoint keeps it, or None without."""
        return [self.scale.item(), self.finite_steps.item()] if self.scaled else None

    def set_loss_scale(self, saved):
        """Put back what `loss_scale` gave; nothing for None, or without a scale here."""
        if saved is not None and self.scaled:
            for tensor, value in zip((self.scale, self.finite_steps), saved, strict=True):
                tensor.fill_(value)

    def state(self):
        """What a checkpoint keeps: {"parameter/entry": tensor}."""
        saved, group = self.optimiser.state_dict()["state"], self.optimiser.param_groups[0]
        tensors = {f"{self.names[i]}/{entry}": value for i, entries in saved.items() for entry, value in entries.items()}
        if not self.skips:  # apex counts its steps for all parameters at once
            tensors |= {f"{self.names[i]}/step": torch.tensor(float(group["step"])) for i in saved}
        return tensors

    def load(self, tensors, where):
        """Put back what `state` gave, in the memory layout of the parameters: fused Adam pairs elements by their place in memory.

        where: the file, for the errors.  Raises CheckpointError where an entry is missing, of another shape or of another model.
        """
        tensors, saved = dict(tensors), self.optimiser.state_dict()
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            entries = {entry: tensors.pop(f"{name}/{entry}", None) for entry in ("step", *MOMENTS)}
            shapes = [None if value is None else value.shape for value in entries.values()]
            if shapes == [None] * 3:
                continue  # never had a gradient
            if shapes != [torch.Size([]), parameter.shape, parameter.shape]:
                raise CheckpointError(f"{where}: the state of {name} is incomplete or of another shape")
            saved["state"][i] = {entry: torch.empty_like(parameter).copy_(entries[entry]) for entry in MOMENTS}
            if self.skips:
                saved["state"][i]["step"] = entries["step"]
            else:
                saved["param_groups"][0]["step"] = int(entries["step"])
        if tensors:
            raise CheckpointError(f"{where}: {next(iter(tensors))} does not belong to the model")
        self.optimiser.load_state_dict(saved)


def _apex():
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise MissingError(
            f"optimizer 'apex': {error}; build apex from its source (github.com/NVIDIA/apex; the package of this name is another project), "
            "or take --optimizer adam, torch's fused one"
        ) from error
    return FusedAdam
