"""A small app that uses what every supported client has."""

import os

import modal

MOUNT = "/tmp/matrix-volume"

app = modal.App("matrix-core")
volume = modal.Volume.from_name("matrix-volume", create_if_missing=True)
secret = modal.Secret.from_dict({"MATRIX_SECRET": "kept"})


@app.function()
def square(x: int) -> int:
    return x * x


@app.function(volumes={MOUNT: volume}, secrets=[secret])
def write(name: str) -> str:
    with open(f"{MOUNT}/{name}", "w") as file:
        file.write(os.environ["MATRIX_SECRET"])
    volume.commit()
    return modal.__version__


@app.cls()
class Counter:
    start: int = modal.parameter(default=0)

    @modal.enter()
    def prepare(self) -> None:
        self.value = self.start

    @modal.method()
    def add(self, n: int) -> int:
        self.value += n
        return self.value


@app.local_entrypoint()
def main() -> None:
    assert square.remote(7) == 49
    assert list(square.map(range(20))) == [n * n for n in range(20)]
    call = square.spawn(5)
    assert call.get(timeout=60) == 25
    assert Counter(start=10).add.remote(5) == 15
    inside = write.remote("written")
    assert b"".join(volume.read_file("written")) == b"kept"
    with modal.Dict.ephemeral() as entries:
        entries["k"] = {"v": 1}
        assert entries["k"] == {"v": 1} and entries.len() == 1
    with modal.Queue.ephemeral() as queue:
        queue.put_many([1, 2, 3])
        assert queue.get() == 1 and queue.get_many(2) == [2, 3] and queue.len() == 0
    print(f"all well: client {modal.__version__}, container {inside}")
