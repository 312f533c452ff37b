"""The random draws of modules (dropout and the like): seeded, without a trace in the global random state."""

import torch


def seed_draws(seed: int, where: torch.device) -> None:
    """Seed the generators a module on `where` draws from; those of other devices are the user's."""
    torch.default_generator.manual_seed(seed)
    if where.type == "cuda":
        index = torch.cuda.current_device() if where.index is None else where.index
        torch.cuda.default_generators[index].manual_seed(seed)
