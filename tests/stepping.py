"""One training step, as tests take them to get away from the start."""


def step(loss, *optimizers):
    """Let every optimiser follow the gradient of `loss` once."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
