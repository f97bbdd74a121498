"""How close int_ray comes to the hardware's limit: ratios against honest baselines, measured in one run."""
