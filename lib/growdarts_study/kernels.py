"""Jupyter's kernels that two programs can start at the same moment. (Compiled kernels are in `growdarts_fast`.)

Jupyter looks for free TCP ports, writes them down and starts a kernel, which binds them a second later. In between another
notebook may have found the same ports free: one of the two dies ("Address already in use"). Sockets in a folder of the
kernel's own are nobody else's.
"""

from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.provisioning import LocalProvisioner


class SocketProvisioner(LocalProvisioner):
    """Starts a kernel on this machine, reached by sockets in the file system.

    Every program that runs notebooks takes it where JUPYTER_DEFAULT_PROVISIONER_NAME=growdarts-sockets, the name that
    `pyproject.toml` gives it.
    """

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Chooses the sockets before the kernel's command is made."""
        if self.parent.transport == "tcp":  # not at a restart
            self.folder = TemporaryDirectory(prefix="kernel-")
            self.parent.transport, self.parent.ip = "ipc", f"{self.folder.name}/socket"
            self.parent.cache_ports = False
        return await super().pre_launch(**kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        """Removes the sockets with the kernel."""
        await super().cleanup(restart)
        if not restart:
            self.folder.cleanup()
