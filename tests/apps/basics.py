"""An app with one of everything that calls can do."""

import os
import sys
import time

import modal

app = modal.App("basics")
image = modal.Image.debian_slim(python_version="3.11")


@app.function(image=image)
def square(x: int) -> int:
    print(f"squaring {x}")
    return x * x


@app.function(image=image)
def add(x: int, y: int) -> int:
    return x + y


@app.function(image=image)
def fail(text: str) -> None:
    raise ValueError(text)


@app.function(image=image)
def count(n: int):
    yield from range(n)


@app.function(image=image)
def leave(code: int) -> None:
    os._exit(code)


@app.function(image=image, timeout=2)
def sleep_long() -> None:
    time.sleep(60)


@app.function(image=image)
async def double(x: int) -> int:
    return 2 * x


@app.cls(image=image)
class Greeter:
    name: str = modal.parameter(default="nobody")

    @modal.enter()
    def start(self) -> None:
        self.entered = f"entered for {self.name}"

    @modal.method()
    def greet(self, word: str) -> str:
        return f"{word} {self.name} ({self.entered})"

    @modal.exit()
    def stop(self) -> None:
        print(f"goodbye {self.name}")


@app.local_entrypoint()
def main() -> None:
    assert square.remote(7) == 49
    assert list(square.map(range(40))) == [x * x for x in range(40)]
    assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    square.for_each([1, 2])
    call = square.spawn(9)
    assert call.get() == 81
    assert list(count.remote_gen(5)) == [0, 1, 2, 3, 4]
    assert double.remote(21) == 42
    assert Greeter(name="Ada").greet.remote("hello") == "hello Ada (entered for Ada)"
    assert Greeter().greet.remote("hi") == "hi nobody (entered for nobody)"
    try:
        fail.remote("broken on purpose")
    except ValueError as error:
        print("caught", error)
    else:
        sys.exit("no exception came back")
    print("all is well")
