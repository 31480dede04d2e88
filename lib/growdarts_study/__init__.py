"""The study: experiments with `growdarts` on registered data, their records, and the report of these.

ROOT is the checkout that the study reads its grids from and writes its records to: the one that this package lies in;
where it is installed elsewhere, the one that Python was started in. Outside of any, it is the folder that Python was
started in, so that nothing is ever written into an installation.
"""

from pathlib import Path

ROOT = next((folder for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents)
             if (folder / "notebooks" / "grids.yml").is_file()), Path.cwd())
