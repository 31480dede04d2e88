"""What there is to run: experiments and tiers of notebooks/grids.yml, their jobs, and how many of these lack records.

`make batch TIER=reduced EXPERIMENT=language` makes what is missing.
"""

import argparse
import sys

from growdarts.settings import ConfigError


def main() -> None:
    """Print the list."""
    argparse.ArgumentParser(prog="python -m growdarts_study", description=__doc__).parse_args()
    try:
        from growdarts_study import grids
    except ModuleNotFoundError as error:
        sys.exit(f"There is no module {error.name}, which the study needs: pip install 'growdarts[study]', or '.[study]' in a clone")
    try:
        tiers = [(name, tier) for name, found in grids.read().items() for tier in found]
    except ConfigError as error:
        sys.exit(str(error))
    print(f"{'experiment':<14}{'tier':<14}{'jobs':>6}{'missing':>9}  device")
    for name, tier in tiers:
        jobs, hours = grids.jobs(name, tier), grids.tier_of(name, tier)
        missing = sum(not job.is_done() for job in jobs)
        cost = (f", about {hours['gpu_hours']:g} hours of a GPU a job" if "gpu_hours" in hours else
                f", about {hours['core_hours']:g} hours of one core in all" if "core_hours" in hours else "")
        print(f"{name:<14}{tier:<14}{len(jobs):>6}{missing:>9}  {jobs[0].config.device}{cost}")


if __name__ == "__main__":
    main()
