"""Notebooks that are started at the same moment do not take each other's ports: their kernels have none."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jupyter_client.manager import start_new_kernel


def test_kernels_talk_over_sockets_of_their_own(monkeypatch):
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "growdarts-sockets")
    with ThreadPoolExecutor() as pool:
        kernels = list(pool.map(lambda _: start_new_kernel(), range(2)))
    folders = [Path(manager.ip).parent for manager, _ in kernels]
    assert {manager.transport for manager, _ in kernels} == {"ipc"} and folders[0] != folders[1]
    for (manager, client), folder in zip(kernels, folders, strict=True):
        assert client.execute_interactive("1 + 1", timeout=60)["content"]["status"] == "ok"
        assert folder.stat().st_mode & 0o077 == 0  # nobody else's
        client.stop_channels()
        manager.shutdown_kernel()
        assert not folder.exists()
