"""How the loopback Hub takes jobs: it writes them down; a test may run their command."""

import json
import secrets
import time
from dataclasses import dataclass, field

from loopback_http import HubError, route

JOBS = r"/api/jobs/(?P<namespace>[^/]+)"
FLAVORS = ("cpu-basic", "cpu-upgrade", "t4-small", "a10g-small", "h200")


@dataclass
class Job:
    """`spec` is what was sent, with the secrets; `stage` and `logs` are for the test to say."""

    id: str
    namespace: str
    spec: dict
    created: str
    stage: str = "RUNNING"
    logs: list[str] = field(default_factory=list)

    def described(self) -> dict:
        secret = {name: None for name in self.spec.get("secrets", {})}
        owner = {"id": self.namespace, "name": self.namespace, "type": "user"}
        facts = {"id": self.id, "createdAt": self.created, "owner": owner, "status": {"stage": self.stage}}
        return self.spec | facts | {"secrets": secret}


class Jobs:
    """Answers of `loopback_hub._Handler`."""

    @route("GET", "/api/jobs/hardware")
    def hardware(self) -> None:
        price = {"unitCostMicroUSD": 167, "unitCostUSD": 0.000167, "unitLabel": "minute"}
        self.send_json(
            [{"name": name, "prettyName": name, "cpu": "2 vCPU", "ram": "16 GB", **price} for name in FLAVORS]
        )

    @route("POST", JOBS)
    def run(self, namespace: str) -> None:
        self.check_right(namespace)
        spec = self.json()
        if spec["flavor"] not in FLAVORS:
            raise HubError(400, f"Invalid flavor: {spec['flavor']}")
        created = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        job = Job(secrets.token_hex(12), namespace, spec, created)
        self.hub.jobs.append(job)
        self.send_json(job.described())

    @route("GET", rf"{JOBS}/(?P<id>[^/]+)")
    def inspect(self, namespace: str, id: str) -> None:
        self.send_json(self.job(namespace, id).described())

    @route("GET", rf"{JOBS}/(?P<id>[^/]+)/logs")
    def logs(self, namespace: str, id: str) -> None:
        events = [f"data: {json.dumps({'data': line, 'timestamp': ''})}\n\n" for line in self.job(namespace, id).logs]
        self.send_bytes("".join(events).encode(), 200, {"Content-Type": "text/event-stream"})

    def job(self, namespace: str, id: str) -> Job:
        self.check_right(namespace)
        for job in self.hub.jobs:
            if (job.namespace, job.id) == (namespace, id):
                return job
        raise HubError(404, f"No such job: {id}")
