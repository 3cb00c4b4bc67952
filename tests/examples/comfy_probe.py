"""An app of the tests: speaks to the server that `comfy launch` started, as the programs around a ComfyUI do.

modal run comfy_probe.py  prints what it found as one JSON object.
"""

import asyncio
import io
import json
import subprocess

import modal
from app import image

app = modal.App("comfy-probe")
URL = "http://127.0.0.1:8190"
SLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
    "2": {"class_type": "TestingSlow", "inputs": {"image": ["1", 0], "seconds": 0.4, "steps": 4}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "slow/red"}},
}


@app.function(image=image.add_local_python_source("app"), timeout=120)
def probe() -> dict:
    subprocess.run(["comfy", "launch", "--background", "--", "--port", "8190"], check=True)
    try:
        found = asyncio.run(talk())
    finally:
        stopped = subprocess.run(["comfy", "stop"], check=True, capture_output=True, text=True)
    return found | {"stop": stopped.stdout}


async def talk() -> dict:
    import aiohttp
    from PIL import Image

    found = {}
    async with aiohttp.ClientSession(URL, raise_for_status=True) as http:
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(picture, "png")
        form = aiohttp.FormData()
        form.add_field("image", picture.getvalue(), filename="red.png")
        async with http.post("/upload/image", data=form) as answer:
            found["upload"] = await answer.json()
        async with http.ws_connect("/ws?clientId=me") as socket:
            async with http.post("/prompt", json={"prompt": SLOW, "client_id": "me"}) as answer:
                mine = (await answer.json())["prompt_id"]
            async with http.post("/prompt", json={"prompt": SLOW, "client_id": "another"}) as answer:
                other = (await answer.json())["prompt_id"]
            async with http.get("/queue") as answer:
                queue = await answer.json()
                found["queue"] = [[item[1] for item in queue[name]] for name in ("queue_running", "queue_pending")]
                found["queue"] = [[[mine, other].index(prompt) for prompt in part] for part in found["queue"]]
            found["messages"] = await messages_of(socket, mine)
        while True:
            async with http.get(f"/history/{other}") as answer:
                if history := await answer.json():
                    break
            await asyncio.sleep(0.05)
        found["other"] = history[other]["status"]["status_str"]
        async with http.get(f"/history/{mine}") as answer:
            saved = (await answer.json())[mine]["outputs"]["3"]["images"][0]
        found["saved"] = saved
        async with http.get("/view", params=saved) as answer:
            drawn = Image.open(io.BytesIO(await answer.read()))
            found["drawn"] = [drawn.size, drawn.getpixel((1, 1))]
        async with http.get("/system_stats") as answer:
            found["argv"] = (await answer.json())["system"]["argv"][1:]
        async with http.get("/object_info/SaveImage") as answer:
            found["info"] = (await answer.json())["SaveImage"]["output_node"]
        outside = {"filename": "../../../../etc/passwd", "type": "output"}
        async with http.get("/view", params=outside, raise_for_status=False) as answer:
            found["outside"] = answer.status
        found["interrupted"] = await interrupt(http)
    return found


async def interrupt(http) -> str:
    """The last message of a prompt that was stopped while it ran."""
    slower = json.loads(json.dumps(SLOW))
    slower["2"]["inputs"].update(seconds=20.0, steps=200)
    async with http.ws_connect("/ws?clientId=hasty") as socket:
        async with http.post("/prompt", json={"prompt": slower, "client_id": "hasty"}) as answer:
            prompt = (await answer.json())["prompt_id"]
        async for message in socket:
            told = json.loads(message.data)
            if told["type"] == "progress":
                await (await http.post("/interrupt")).read()
            if told["type"] == "execution_interrupted" and told["data"]["prompt_id"] == prompt:
                return str(told["type"])
    return "closed"


async def messages_of(socket, prompt: str) -> list:
    """What the socket says of one prompt until its end, in short."""
    seen = []
    async for message in socket:
        told = json.loads(message.data)
        kind, data = told["type"], told["data"]
        if kind == "status":
            continue
        assert data["prompt_id"] == prompt, "messages of another client's prompt"
        about = [data["value"], data["max"]] if kind == "progress" else data.get("node")
        seen.append([kind, about])
        if kind == "executing" and data["node"] is None:
            return seen
    return seen


@app.local_entrypoint()
def main():
    print("PROBED " + json.dumps(probe.remote()))
