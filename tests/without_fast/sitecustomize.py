"""Python starts by importing this if its folder is in PYTHONPATH: then neither the fast package nor numba can be imported."""

import sys


class NotInstalled:
    """Finder for which some packages do not exist."""

    packages = ("growdarts_fast", "numba", "llvmlite")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])


sys.meta_path.insert(0, NotInstalled())
