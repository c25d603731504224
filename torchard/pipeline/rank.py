"""Order the hub's models by how well their frozen features fit the task, and choose one to tune."""
