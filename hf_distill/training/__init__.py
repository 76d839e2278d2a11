"""What a training is made of: the plan, the step, the state, the processes."""
