"""The task-engine contract: workflows and their instances under `/api/v1`."""
