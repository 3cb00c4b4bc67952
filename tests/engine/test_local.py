"""What the engine of one machine grants, refuses and explains."""

from __future__ import annotations

import asyncio

import pytest

from stoker.engine.base import GpuRequest, Granted, Never, NotNow, ResourceRequest
from stoker.engine.gpus import declared_gpus, model_of
from stoker.engine.local import Gpus, local_engine
from stoker.errors import InvalidArgument


def gpu(*wishes: tuple[str, int]) -> ResourceRequest:
    return ResourceRequest(gpus=tuple(GpuRequest(model, count) for model, count in wishes))


def test_gpus_are_assigned_exclusively_and_come_back() -> None:
    async def scenario() -> None:
        engine = local_engine(declared_gpus("H100:2,L40S:1"))
        released: list[int] = []
        engine.on_release = lambda: released.append(1)
        first = await engine.reserve("a", gpu(("H100", 1)))
        second = await engine.reserve("b", gpu(("H100", 1)))
        assert isinstance(first, Granted) and isinstance(second, Granted)
        assert {*first.gpu_devices, *second.gpu_devices} == {0, 1} and first.gpu_declared
        assert isinstance(await engine.reserve("c", gpu(("H100", 1))), NotNow)
        fallback = await engine.reserve("d", gpu(("H100", 1), ("L40S", 1)))
        assert isinstance(fallback, Granted) and fallback.gpu_model == "L40S"
        assert await engine.reserve("a", gpu(("H100", 1))) == first, "asking again for a lease gives the same one"
        engine.withdraw("c")
        assert released == [1]
        await engine.release("a")
        await engine.release("a")
        assert released == [1, 1]
        again = await engine.reserve("e", gpu(("ANY", 1)))
        assert isinstance(again, Granted) and again.gpu_devices == first.gpu_devices

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "request_, words",
    [
        (gpu(("H100", 1)), ["H100", "--fake-gpus H100:1", "no GPU"]),
        (gpu(("B200", 8), ("H100", 4)), ["B200:8 or H100:4", "--fake-gpus B200:8"]),
        (ResourceRequest(memory_mib=10**9), ["1000000000 MiB"]),
        (ResourceRequest(cpu_milli=10**9), ["CPU"]),
    ],
)
def test_what_can_never_fit_is_said_at_once(request_: ResourceRequest, words: list[str]) -> None:
    verdict = asyncio.run(local_engine().reserve("a", request_))
    assert isinstance(verdict, Never)
    assert all(word in verdict.reason for word in words), verdict.reason


def test_memory_is_not_promised_twice() -> None:
    async def scenario() -> None:
        engine = local_engine()
        total = engine.inventory()["memory_mib"]["total"]  # type: ignore[index]
        half = ResourceRequest(memory_mib=total // 2 + 1)
        assert isinstance(await engine.reserve("a", half), Granted)
        assert isinstance(await engine.reserve("b", half), NotNow)
        await engine.release("a")
        assert isinstance(await engine.reserve("b", half), Granted)

    asyncio.run(scenario())


def test_what_is_freed_is_kept_for_who_waits() -> None:
    async def scenario() -> None:
        clock = [0.0]
        engine = local_engine(declared_gpus("H100:2"), clock=lambda: clock[0])
        for lease in ("a", "b"):
            assert isinstance(await engine.reserve(lease, gpu(("H100", 1)), "small"), Granted)
        waiting = await engine.reserve("big-1", gpu(("H100", 2)), "big")
        assert isinstance(waiting, NotNow) and waiting.missing == {"gpu:H100": 2}
        await engine.release("a")
        # Not yet patient enough to keep a GPU idle, but somebody who holds nothing comes before who holds one.
        assert isinstance(await engine.reserve("c", gpu(("H100", 1)), "small"), Granted)
        for clock[0] in (10.0, 20.0, 31.0):
            assert isinstance(await engine.reserve("big-1", gpu(("H100", 2)), "big"), NotNow)
        await engine.release("c")
        refused = await engine.reserve("d", gpu(("H100", 1)), "small")
        assert isinstance(refused, NotNow) and "waited longer" in refused.reason
        assert isinstance(await engine.reserve("e", ResourceRequest(), "other"), Granted), "it takes no GPU"
        await engine.release("b")
        assert isinstance(await engine.reserve("big-1", gpu(("H100", 2)), "big"), Granted)

    asyncio.run(scenario())


def test_a_gpu_that_does_not_answer_is_not_given_away() -> None:
    async def scenario() -> None:
        ill = {0}
        engine = local_engine((Gpus("H100", (0, 1)),), healthy=lambda device: device not in ill)
        first = await engine.reserve("a", gpu(("H100", 1)))
        assert isinstance(first, Granted) and first.gpu_devices == (1,)
        second = await engine.reserve("b", gpu(("H100", 1)))
        assert isinstance(second, NotNow) and "GPU 0 does not answer" in second.reason
        assert engine.inventory()["gpus"]["H100"]["unhealthy"] == [0]  # type: ignore[index]
        ill.clear()
        assert isinstance(await engine.reserve("b", gpu(("H100", 1))), Granted)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "wanted, given",
    [("A100", "A100-80GB"), ("A100-80GB", "A100-80GB"), ("ANY", "A100-80GB"), ("L40S", "L40S"), ("L40S+", "L40S")],
)
def test_a_family_of_gpus_has_one_name(wanted: str, given: str) -> None:
    engine = local_engine((Gpus("A100-80GB", (0,)), Gpus("L40S", (1,))))
    lease = asyncio.run(engine.reserve("a", gpu((wanted, 1))))
    assert isinstance(lease, Granted) and lease.gpu_model == given
    assert isinstance(asyncio.run(engine.reserve("b", gpu(("L4", 1)))), Never)


def test_disk_is_counted() -> None:
    async def scenario() -> None:
        engine = local_engine(disk_mib=1000)
        assert isinstance(await engine.reserve("a", ResourceRequest(disk_mib=600)), Granted)
        assert isinstance(await engine.reserve("b", ResourceRequest(disk_mib=600)), NotNow)
        never = await engine.reserve("c", ResourceRequest(disk_mib=1001))
        assert isinstance(never, Never) and "1001 MiB of ephemeral disk" in never.reason

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["H100:0", "H100:x", ":1", "H100:1:2", "H 100"])
def test_nonsense_gpus_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="MODEL:COUNT"):
        declared_gpus(text)


def test_product_names_become_modal_names() -> None:
    assert model_of("NVIDIA H100 80GB HBM3", 80 << 30) == "H100"
    assert model_of("NVIDIA A100-SXM4-40GB", 40 << 30) == "A100-40GB"
    assert model_of("NVIDIA A100-SXM4-80GB", 80 << 30) == "A100-80GB"
    assert model_of("NVIDIA L40S", 48 << 30) == "L40S"
    assert model_of("NVIDIA GeForce RTX 4090", 24 << 30) == "GEFORCE-RTX-4090"


def test_what_is_kept_for_others_is_kept_of_one_kind_of_gpu() -> None:
    async def scenario() -> None:
        clock = [0.0]
        engine = local_engine(declared_gpus("H100:2,L40S:1"), clock=lambda: clock[0])
        assert isinstance(await engine.reserve("a", gpu(("H100", 1)), "small"), Granted)
        for clock[0] in (0.0, 10.0, 20.0, 31.0):
            assert isinstance(await engine.reserve("b", gpu(("H100", 2)), "big"), NotNow)
        assert isinstance(await engine.reserve("c", gpu(("H100", 1)), "other"), NotNow)
        second_choice = await engine.reserve("c", gpu(("H100", 1), ("L40S", 1)), "other")
        assert isinstance(second_choice, Granted) and second_choice.gpu_model == "L40S"

    asyncio.run(scenario())


def test_a_call_of_who_holds_a_gpu_gets_the_other() -> None:
    """Else all would wait: the caller for the call, the call for the GPU that is kept, and that for the caller's."""

    async def scenario() -> None:
        clock = [0.0]
        engine = local_engine(declared_gpus("H100:2"), clock=lambda: clock[0])
        assert isinstance(await engine.reserve("caller", gpu(("H100", 1)), "f"), Granted)
        assert isinstance(await engine.reserve("frontend", ResourceRequest(), "web"), Granted)
        for clock[0] in (0.0, 10.0, 20.0, 31.0):
            assert isinstance(await engine.reserve("b", gpu(("H100", 2)), "big"), NotNow)
        for waiters in ((), ("frontend",), ("gone",)):
            assert isinstance(await engine.reserve("c", gpu(("H100", 1)), "g", awaited_by=waiters), NotNow)
        assert isinstance(await engine.reserve("c", gpu(("H100", 1)), "g", awaited_by=("frontend", "caller")), Granted)

    asyncio.run(scenario())


def test_an_owner_gets_no_more_than_all_processors_where_that_is_asked_for() -> None:
    async def scenario() -> None:
        engine = local_engine()
        total = engine.inventory()["cpu_milli"]["total"]  # type: ignore[index]
        most, more = ResourceRequest(cpu_milli=total - 100), ResourceRequest(cpu_milli=200)
        assert isinstance(await engine.reserve("a", most, "f", overcommit=False), Granted)
        refused = await engine.reserve("b", more, "f", overcommit=False)
        assert isinstance(refused, NotNow) and "the processors are busy" in refused.reason
        assert not refused.missing, "nobody ends for it"
        assert isinstance(await engine.reserve("c", more, "g", overcommit=False), Granted)
        assert isinstance(await engine.reserve("b", more, "f"), Granted)

    asyncio.run(scenario())
