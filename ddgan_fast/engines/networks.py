"""An engine in the place of a network: called with what the sampler has, it names the inputs of its graph."""


class StepNetwork:
    """An engine of target `step`, called like a generator: (x_t, t, z) -> x0."""

    def __init__(self, run, config):
        """run: {name: tensor} -> tensor.  config: config.Model."""
        self.run, self.config = run, config

    def __call__(self, x_t, t, z=None):
        return self.run({"x_t": x_t, "t": t} | ({} if z is None else {"z": z}))


class SamplerNetwork:
    """An engine of target `sampler`, called with what diffusion.denoise takes: (x_T, z, noise) -> image."""

    def __init__(self, run, config, axes):
        """axes: {name of an input: the axis of its batch}, Graph.batch_axes."""
        self.run, self.config, self.axes = run, config, axes

    def __call__(self, x_T, z=None, noise=None):
        inputs = {"x_T": x_T} | ({} if z is None else {"z": z}) | {"noise": noise}
        return self.run(
            {name: value.transpose(0, 1) if name != "x_T" and self.axes[name] == 0 else value for name, value in inputs.items()}
        )
