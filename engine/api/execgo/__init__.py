"""The ExecGo contract: tasks, MCP calls, adapters, health and metrics. `wire`, `translation`, then routes."""
