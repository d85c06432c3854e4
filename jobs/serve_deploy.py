"""Deploy the gateway and its apps on the cluster: ``python -m jobs.serve_deploy``."""

from sunloom.config import Settings
from sunloom.serving.deploy.deploy import deploy
from sunloom.workflows.job import JobOutcome, run_job


def run(settings: Settings) -> JobOutcome:
    """Deploy and wait until the gateway is ready; the apps stay after the job."""
    deployment = deploy(settings)
    return JobOutcome(
        {"apps": deployment.apps}, {"gateway": deployment.url, "model": deployment.model}
    )


if __name__ == "__main__":
    run_job("serve", Settings, run)
