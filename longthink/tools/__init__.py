"""A tool inside the thinking: how calls are written, who runs them, and how a rollout goes on."""
