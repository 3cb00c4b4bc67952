"""The runtime and the image builder that the settings ask for."""

from __future__ import annotations

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.images.base import ImageBuilder
from stoker.runtime.base import Runtime
from stoker.server.addresses import Ports


async def open_runtime(settings: Settings, data: DataDir, ports: Ports) -> tuple[Runtime, ImageBuilder]:
    """The runtime is not open yet: the node opens it."""
    if settings.runtime == "process":
        return await _processes(settings, data)
    return await _sandboxes(settings, data, ports)


async def _processes(settings: Settings, data: DataDir) -> tuple[Runtime, ImageBuilder]:
    from stoker.images.host import HostImages
    from stoker.runtime.process import ProcessRuntime

    images = HostImages(data.path, python=settings.process_python)
    await images.open()
    return ProcessRuntime(data.run / "process"), images


async def _sandboxes(settings: Settings, data: DataDir, ports: Ports) -> tuple[Runtime, ImageBuilder]:
    from stoker.images.builder import LayeredImageBuilder
    from stoker.runtime.memory import ceiling
    from stoker.runtime.runsc import RunscRuntime
    from stoker.runtime.runsc_binary import find_runsc

    runtime = RunscRuntime(
        data.run / "runsc",
        runsc=find_runsc(settings.runsc_path),
        gateway_port=ports.containers,
        redirects=ports.redirects,
        memory=ceiling(settings.memory_reserve_mib << 20),
        disk=int(settings.container_disk_gib * (1 << 30)) or None,
        disk_reserve=settings.min_free_disk_mib << 20,
        huge_pages=settings.huge_pages,
        hurry=settings.expedited_rcu,
        build_isolation=settings.build_isolation,
    )
    builder = LayeredImageBuilder(
        data.path,
        runtime.steps,
        registry_mirrors=settings.registry_mirrors,
        insecure_registries=settings.insecure_registries,
        package_indexes=settings.package_indexes,
        base_refresh_days=settings.base_refresh_days,
        python_mirror=settings.python_mirror,
        max_seconds=settings.image_build_seconds,
    )
    await builder.open()
    return runtime, builder
