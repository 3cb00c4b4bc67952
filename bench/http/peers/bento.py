"""BentoML, one worker, access log off: `bentoml serve bento:Echo`."""

import bentoml


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, traffic={"timeout": 60})
class Echo:
    @bentoml.api(route="/echo")
    def echo(self, s: str) -> dict:
        return {"s": s}
