"""The real client hands jobs to the loopback Hub, and looks after its own."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError


def test_a_job_is_written_down_with_its_secrets_which_are_never_told(hub, api):
    job = api.run_job(image="python:3.12", command=["python", "-V"], secrets={"KEY": "secret"}, timeout="1h")
    [taken] = hub.jobs
    assert (taken.id, taken.namespace, taken.spec["timeoutSeconds"]) == (job.id, "alice", 3600)
    assert taken.spec["secrets"] == {"KEY": "secret"} and job.secrets == {"KEY": None}
    assert job.url == f"{hub.url}/jobs/alice/{job.id}"


def test_a_job_is_followed_to_its_end_by_its_owner_alone(hub, api):
    job = api.run_job(image="python:3.12", command=["python", "-V"])
    assert api.inspect_job(job_id=job.id).status.stage == "RUNNING"
    hub.jobs[0].logs += ["Python 3.12.1", "done"]
    hub.jobs[0].stage = "COMPLETED"
    assert list(api.fetch_job_logs(job_id=job.id)) == ["Python 3.12.1", "done"]
    assert api.inspect_job(job_id=job.id).status.stage == "COMPLETED"
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(endpoint=hub.url, token="hf_bob").inspect_job(job_id=job.id, namespace="alice")


def test_a_machine_is_one_of_those_that_are_listed(hub, api):
    assert "a10g-small" in [machine.name for machine in api.list_jobs_hardware()]
    with pytest.raises(HfHubHTTPError, match="Invalid flavor"):
        api.run_job(image="python:3.12", command=["python", "-V"], flavor="abacus")
    assert hub.jobs == []
